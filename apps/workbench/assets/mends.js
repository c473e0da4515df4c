// What Gradio's parts lack for screen readers and keyboards (axe-core: WCAG 2.2 AA), mended as they appear.
"use strict";

(() => {
  const mends = {
    // a list whose children are buttons is none
    '.examples[role="list"]': (list) => list.removeAttribute("role"),
    // the only button of the conversation without a name
    '#chat button.icon-button[aria-label=""]': (button) => {
      button.setAttribute("aria-label", "Clear the conversation");
      button.title = "Clear the conversation";
    },
    // a button within a button; the inner one opens the bubble as well
    '#chat .title[role="button"]:has(button)': (title) => {
      title.removeAttribute("role");
      title.removeAttribute("tabindex");
    },
  };

  const mend = () => {
    for (const [selector, work] of Object.entries(mends)) document.querySelectorAll(selector).forEach(work);
  };

  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      mend();
    });
  }).observe(document, { subtree: true, childList: true });
})();
