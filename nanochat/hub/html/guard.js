// Written for the oldest browsers: says so where the page's own script is too new for one, or fails at its beginning.
window.onerror = function (message) {
  var told = document.getElementById("unable"); // it leaves when the page is there
  if (told) {
    told.textContent = "This browser is too old to run the model that this file holds, or is kept from it. Open the file in a " +
      "Firefox, Chrome, Edge or Safari of 2024 or later. (" + message + ")";
  }
};
