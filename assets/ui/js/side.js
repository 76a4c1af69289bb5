// The forms in the Monitor's drawers: fields by name to the panel, which says what is wrong at its field.
document.addEventListener("submit", (event) => {
  const form = event.target.closest?.("[data-side]");
  if (!form) return;
  event.preventDefault();
  const told = Object.fromEntries(new FormData(form));
  slipway.act(form.dataset.side, { ...told, origin: location.origin }, event.submitter || form.querySelector('[type="submit"]'));
});
