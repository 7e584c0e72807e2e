// What this browser keeps for itself: drafts, the theme, the model. Where nothing may be kept, nothing is.

export function recall(name) {
  try { return localStorage.getItem(name) ?? "" } catch { return "" }
}

export function keep(name, value) {
  try {
    if (value) localStorage.setItem(name, value)
    else localStorage.removeItem(name)
  } catch { /* full, or not allowed */ }
}
