// Code that is wider than the screen can be scrolled by the keyboard, too.
for (const code of document.querySelectorAll("pre > code")) code.tabIndex = 0;
