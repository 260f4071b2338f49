//! Pages as people see them: in a browser without a screen, at the widths of a desk and of a phone,
//! light and dark. Script errors, what does not fit, texts over each other, and what axe-core (a
//! checker of accessibility) finds, fail.

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use support::{example, program, spmd};

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(120);

/// Where people can look at what the browser has seen.
fn pictures() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The browser, or why there is none.
static BROWSER: LazyLock<Result<&'static str, &'static str>> = LazyLock::new(|| {
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(works);
    found.ok_or("needs chromium (apt-get install chromium)")
});

/// Finds what is wrong on a page, and says it in the page around.
const AUDIT: &str = r"
const found = [];
onerror = message => { found.push('script error: ' + message); };
addEventListener('load', async () => {
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide of ${root.clientWidth}`);
  for (const svg of document.querySelectorAll('svg')) {
    if (svg.getAttribute('role') === 'img' && !svg.querySelector('title')) found.push('a picture without words');
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([text, b], place) => {
      const fits = b.left >= box.left - 1 && b.right <= box.right + 1 && b.top >= box.top - 1 && b.bottom <= box.bottom + 1;
      if (!fits) found.push('cut off: ' + text);
      for (const [other, o] of texts.slice(place + 1))
        if (b.left < o.right - 1 && o.left < b.right - 1 && b.top < o.bottom - 1 && o.top < b.bottom - 1)
          found.push(`over each other: ${text} and ${other}`);
    });
  }
  if (window.axe) {
    const result = await axe.run();
    for (const violation of result.violations)
      found.push(`${violation.id}: ${violation.help}: ${violation.nodes[0].html.slice(0, 200)} ${violation.nodes[0].any[0]?.message ?? ''}`);
  }
  const said = parent.document.createElement('pre');
  said.id = 'said';
  said.textContent = 'looked at ' + root.clientWidth + ' pixels\n' + found.join('\n');
  parent.document.body.append(said);
});";

/// The page as an attribute of another.
fn quoted(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;")
}

/// The browser; `None` where there is none and none is asked for.
fn browser() -> Option<&'static str> {
    match *BROWSER {
        Ok(browser) => Some(browser),
        Err(why) => {
            let required = env::var("SPMD_REQUIRE").unwrap_or_default();
            let asked = required.split(',').any(|it| it == "browser");
            assert!(!asked, "SPMD_REQUIRE asks for browser: {why}");
            println!("skipped: {why}");
            None
        }
    }
}

/// What is wrong on a page, a line each; a picture of it is kept.
fn complaints(browser: &str, name: &str, page: &Path, (width, dark): (u32, bool)) -> String {
    let text = fs::read_to_string(page).unwrap();
    let axe = "target/axe/node_modules/axe-core/axe.min.js";
    // Without it (npm install --prefix target/axe axe-core) the rest is still looked at.
    let axe = Path::new(env!("CARGO_MANIFEST_DIR")).join(axe);
    let scripts = [fs::read_to_string(axe).unwrap_or_default(), AUDIT.to_owned()];
    let scripts = scripts.map(|script| format!("<script>{script}</script>")).concat();
    let audited = text.replace("</head>", &format!("{scripts}</head>"));
    assert_ne!(audited, text, "a page has a head");
    let directory = tempfile::tempdir().unwrap();
    // No window is as narrow as a phone: the page stands in one that is.
    let around = directory.path().join("around.html");
    let frame = format!(
        "<!doctype html><body style='margin:0'><iframe width={width} height=20000 style='border:0' srcdoc=\"{}\"></iframe>",
        quoted(&audited)
    );
    fs::write(&around, frame).unwrap();
    let open = |what: &[&str], file: &Path| {
        let mut command = Command::new(browser);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", directory.path().join("profile").display()));
        command.arg(format!("--blink-settings=preferredColorScheme={}", i32::from(!dark)));
        command.args(what).arg(format!("file://{}", file.display()));
        support::run(&mut command, LIMIT)
    };
    let kind = if dark { "dark" } else { "light" };
    let seen = open(&["--virtual-time-budget=30000", "--dump-dom"], &around).stdout;
    let said = seen.split("<pre id=\"said\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let said = said.unwrap_or_else(|| panic!("{name}, {width} pixels, {kind}: nothing is said"));
    let picture = pictures().join(format!("{name}-{width}-{kind}.png"));
    let (to, size) = (format!("--screenshot={}", picture.display()), width.max(500));
    open(&[&to, &format!("--window-size={size},3000")], page);
    let (looked, said) = said.split_once('\n').unwrap_or((said, ""));
    assert_eq!(looked, format!("looked at {width} pixels"));
    said.trim_end().to_owned()
}

/// Looks at a page in every way; nothing where there is no browser.
#[track_caller]
fn look_at(name: &str, page: &Path) {
    let Some(browser) = browser() else { return };
    for way in [(1280, false), (1280, true), (390, false), (390, true)] {
        assert_eq!(complaints(browser, name, page, way), "", "{name}, (pixels, dark): {way:?}");
    }
}

#[test]
fn what_is_wrong_on_a_page_is_found() {
    let Some(browser) = browser() else { return };
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("bad.html");
    let text = "<!doctype html><html lang=en><head><title>bad</title></head><body><main><h1>Bad</h1>\
        <div style='width:900px'>wide</div><svg role=img width=100 height=20><text x=0 y=12>one</text>\
        <text x=4 y=12>two</text><text x=90 y=12>outside</text></svg>\
        <script>nowhere()</script></main></body></html>";
    fs::write(&page, text).unwrap();
    let found = complaints(browser, "bad", &page, (390, false));
    for fault in [
        "script error: ",
        " wide of 390",
        "a picture without words",
        "over each other: one and two",
        "cut off: outside",
    ] {
        assert!(found.contains(fault), "{fault}: {found}");
    }
}

#[test]
fn the_page_of_a_trace_fits_and_can_be_read_by_all() {
    let directory = tempfile::tempdir().unwrap();
    let (trace, page) = (directory.path().join("trace.json"), directory.path().join("page.html"));
    let mut command = program(example("heat2d"));
    command.args(["-n", "4", "--size", "64,48", "--steps", "10", "--trace"]).arg(&trace);
    support::run(&mut command, LIMIT).success();
    support::run(spmd().arg("view").arg(&trace).arg("--html").arg(&page), LIMIT).success();
    look_at("trace", &page);
}

#[test]
fn the_page_of_the_tour_fits_and_can_be_read_by_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = spmd();
    command.args(["tour", "--cells", "128", "--seconds", "0.05", "--out"]).arg(directory.path());
    support::run(&mut command, LIMIT).success();
    look_at("tour", &directory.path().join("tour.html"));
}

/// Those that are kept as examples.
#[test]
fn the_pages_of_the_documentation_fit_and_can_be_read_by_all() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for entry in fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "html") {
            assert!(fs::metadata(&path).unwrap().len() < 1_000_000, "{}", path.display());
            let name = format!("docs-{}", path.file_stem().unwrap().to_string_lossy());
            look_at(&name, &path);
        }
    }
}
