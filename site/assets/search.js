// The tour's search: names of items, fields and modules. Nothing else on the site needs JavaScript.
(function () {
  "use strict";
  var script = document.currentScript, up = script.dataset.up, data = null, asked = false;
  var input = document.getElementById("search"), list = document.getElementById("found");
  if (!input) {
    var bar = document.querySelector(".bar");
    var box = document.createElement("div");
    box.className = "search small";
    box.innerHTML = '<input id="search" type="search" placeholder="Find a name" aria-label="Find a name" autocomplete="off"><ol id="found"></ol>';
    bar.appendChild(box);
    input = box.firstChild;
    list = box.lastChild;
  }
  window.brantTour = function (index) { data = index; show(); };
  // Read when it is first wanted; as a script, so that it works from the file system too.
  function load() {
    if (asked) return;
    asked = true;
    var index = document.createElement("script");
    index.src = up + "tour/search-index.js";
    document.head.appendChild(index);
  }
  function score(name, query) {
    var lower = name.toLowerCase();
    if (name === query) return 0;
    if (lower === query) return 1;
    if (lower.startsWith(query)) return 2 + lower.length / 100;
    var at = lower.indexOf(query);
    return at < 0 ? -1 : 4 + at / 10 + lower.length / 100;
  }
  function show() {
    var query = input.value.trim().toLowerCase();
    list.textContent = "";
    if (!data || !query) return;
    var kinds = { mod: 0, fn: 1, type: 2, macro: 3, const: 4, variant: 5, field: 6 }, found = [];
    data.names.forEach(function (entry) {
      var s = score(entry[0], query);
      if (s >= 0) found.push([s + entry[5] * 0.5 + kinds[entry[1]] / 10, entry]);
    });
    found.sort(function (a, b) { return a[0] - b[0]; });
    found.slice(0, 30).forEach(function (pair) {
      var entry = pair[1], page = data.pages[entry[2]];
      var item = document.createElement("li"), link = document.createElement("a"), place = document.createElement("small");
      link.href = up + "tour/" + page[0] + ".html#L" + entry[3];
      link.textContent = entry[0];
      place.textContent = " " + entry[1] + " in " + page[1];
      item.append(link, place);
      if (entry[4]) {
        var words = document.createElement("span");
        words.textContent = entry[4];
        item.append(words);
      }
      list.append(item);
    });
    if (!found.length) list.innerHTML = "<li>nothing of that name</li>";
  }
  // An address may ask: index.html?q=freeze
  var wanted = new URLSearchParams(location.search).get("q");
  if (wanted) { input.value = wanted; load(); }
  input.addEventListener("focus", load);
  input.addEventListener("input", function () { load(); show(); });
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { input.value = ""; show(); input.blur(); }
    if (event.key === "/" && document.activeElement !== input) { event.preventDefault(); input.focus(); }
  });
})();
