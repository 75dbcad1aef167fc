// Runs before the page is painted, so that a chosen theme does not flash in the other one's colours.
"use strict";
try {
  const theme = localStorage.getItem("kumofire-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* the browser keeps nothing for this site */ }
