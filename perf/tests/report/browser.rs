//! A page in headless Chromium.

use std::path::PathBuf;
use std::process::Command;

use scraper::{Html, Selector};

/// A Chromium.
pub struct Browser {
    program: PathBuf,
}

/// What became of a page.
#[derive(Debug)]
pub struct Seen {
    /// What the page's console said.
    pub errors: Vec<String>,
    /// The inner width of the frame, CSS px.
    pub width: u32,
    /// What was loaded besides the page.
    pub requests: u32,
    /// Whether the dark colours were used.
    pub dark: bool,
    /// What reaches beyond the window, or over its own box; empty if nothing does.
    pub overflowing: String,
}

/// The Chromium in PATH.
pub fn find() -> Option<Browser> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut programs = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    programs
        .find(|program| program.is_file())
        .map(|program| Browser { program })
}

/// Writes what it sees into attributes of the root of the document around. Text in a chart must stay inside the chart.
const PROBE: &str = r#"<script>
addEventListener("load", () => {
  const root = document.documentElement, out = [], seen = parent.document.documentElement.dataset;
  if (root.scrollWidth > innerWidth) out.push("page " + root.scrollWidth);
  for (const text of document.querySelectorAll("svg.chart text")) {
    const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
    if (own.right > all.right + 1 || own.left < all.left - 1 || own.bottom > all.bottom + 1 || own.top < all.top - 1)
      out.push(text.ownerSVGElement.querySelector("title").textContent + ": " + text.textContent);
  }
  for (const box of document.querySelectorAll(".card, .balance > div, figure, p, dd, li")) {
    if (box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0) out.push(box.className + ": " + box.textContent);
  }
  seen.overflowing = out.slice(0, 5).join("; ");
  seen.width = innerWidth;
  seen.requests = performance.getEntriesByType("resource").length;
  seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
});
</script></body>"#;

impl Browser {
    /// Opens the page in a frame of this width, since a window has a smallest width. Names do not resolve there, so nothing outside is reached.
    pub fn open(&self, page: &str, width: u32, dark: bool) -> Seen {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("page.html");
        let policy = "default-src 'none'; style-src 'unsafe-inline'";
        assert!(page.contains(policy), "the page has no policy");
        let probed = page.replace(policy, &format!("{policy}; script-src 'unsafe-inline'"));
        let framed = probed
            .replace("</body>", PROBE)
            .replace('&', "&amp;")
            .replace('"', "&quot;");
        let around = format!(
            "<!DOCTYPE html><html><head><meta name='color-scheme' content='light dark'></head><body>\
             <iframe style='border:0;width:{width}px;height:900px' srcdoc=\"{framed}\"></iframe></body></html>"
        );
        std::fs::write(&file, around).unwrap();
        let output = Command::new("timeout")
            .arg("120")
            .arg(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--enable-logging=stderr",
                "--dump-dom",
            ])
            .arg(format!(
                "--user-data-dir={}",
                dir.path().join("profile").display()
            ))
            .arg(format!("--window-size={},1000", width + 100))
            .arg(format!(
                "--blink-settings=preferredColorScheme={}",
                if dark { 0 } else { 1 }
            ))
            .arg(format!("file://{}", file.display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "chromium failed: {said}");
        let document = Html::parse_document(&String::from_utf8_lossy(&output.stdout));
        let root = document.select(&Selector::parse("html").unwrap()).next().unwrap();
        let seen = |name: &str| {
            root.attr(name)
                .unwrap_or_else(|| panic!("no {name}: {said}"))
                .to_owned()
        };
        Seen {
            errors: said
                .lines()
                .filter(|line| line.contains("CONSOLE"))
                .map(str::to_owned)
                .collect(),
            width: seen("data-width").parse().unwrap(),
            requests: seen("data-requests").parse().unwrap(),
            dark: seen("data-dark") == "true",
            overflowing: seen("data-overflowing"),
        }
    }
}
