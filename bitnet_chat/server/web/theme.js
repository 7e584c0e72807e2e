// Sets the theme before the first paint. "" follows the system.
{
  const kept = (() => { try { return localStorage.getItem("theme") } catch { return null } })()
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept
}
