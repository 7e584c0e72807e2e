// Light or dark, before anything is painted. "" follows the system.
{
  const kept = (() => { try { return localStorage.getItem("theme") } catch { return null } })()
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept
}
