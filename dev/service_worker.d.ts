/** What the server writes above the service worker: see nanochat/serve/offline.py. */
declare const EDITION: { version: string; digests: Record<string, string> };
