// Has the browser open this page while the server is away, where browsers do such a thing: on this machine, or by https.

const REST = 1500; // ms after everything is loaded: until then the page itself needs the server

export function stayOffline() {
  if (!("serviceWorker" in navigator)) return;
  const register = () =>
    setTimeout(() => {
      navigator.serviceWorker.register("/service-worker.js", { updateViaCache: "none" }).catch(() => {
        // private windows refuse it, and who is not logged in does not get it: the page works without
      });
    }, REST);
  if (document.readyState === "complete") register();
  else addEventListener("load", register);
}
