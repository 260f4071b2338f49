//! The architecture, checked: modules import downwards only, and unsafe code and waiting stay in
//! their named rooms.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// The layers of the crate from the ground up; the modules of one layer may use each other.
const LAYERS: [&[&str]; 8] = [
    &[
        "checks",
        "error",
        "datum",
        "hosts",
        "trace",
        "placement",
        "process",
        "random",
        "scalar",
        "settings",
        "signals",
        "stop",
        "told",
        "usage",
    ],
    &["engine"],
    &["comm"],
    &["array", "elastic", "farm"],
    &["io"],
    &["recover"],
    &["launch"],
    &["info"],
];

/// Where unsafe code may stand: the beginnings of paths below `src/`.
const UNSAFE_ROOMS: [&str; 13] = [
    "comm/rma/",
    "comm/own.rs",
    "comm/plan/store.rs",
    "comm/scope",
    "datum.rs",
    "engine/local/",
    "engine/mpi/",
    "io/hdf5",
    "io/unfinished/registry.rs",
    "placement.rs",
    "process.rs",
    "signals.rs",
    "trace/tape.rs",
];

/// Where a thread may wait, spin or let others run by itself: the beginnings of paths below `src/`.
///
/// A rank that waits anywhere else would be unknown to the detection of deadlock, would not make
/// progress with what others wait for, and would keep its CPU from the rank that it waits for; and
/// whoever runs ranks in another way (as coroutines, or in a simulation) has to find all waiting.
const WAITING_ROOMS: [&str; 5] = [
    "engine/local/parking.rs",
    // What parking stands on; and loom's models, which are tests.
    "engine/local/sync.rs",
    "engine/local/models",
    "engine/mpi/progress.rs",
    // Its threads look after a job and are no ranks; a rank waits here only after its last call.
    "launch/",
];

/// What stops a thread, or lets others run.
const WAITS: [&str; 7] =
    ["yield_now", "spin_loop", "park", "park_timeout", "sleep", "Condvar", "wait_timeout"];

#[test]
fn imports_run_downwards() {
    let sources = sources();
    let (_, root) = sources.iter().find(|(path, _)| path == "lib.rs").unwrap();
    let exports = exports(root);
    assert_eq!(exports.get("Comm").map(String::as_str), Some("comm"), "exports are not found");
    let complaints: Vec<String> = sources
        .iter()
        // The crate's root declares and exports all modules; unit tests may stand on what is above.
        .filter(|(path, _)| path != "lib.rs" && !modules(path).contains(&"tests"))
        .flat_map(|(path, source)| upward_imports(path, source, &exports))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let complaints: Vec<String> =
        sources().iter().flat_map(|(path, source)| unsafe_outside(path, source)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn ranks_wait_in_their_rooms() {
    let complaints: Vec<String> =
        sources().iter().flat_map(|(path, source)| waits_outside(path, source)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Lengths that callers give are added and multiplied in `comm/lengths.rs`, where none wraps
/// around; and a view's own account of its elements is asked for in `comm/view.rs`, where it is
/// compared with what is found.
#[test]
fn lengths_are_added_in_one_place() {
    let complaints: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| path.starts_with("comm/") && path != "comm/lengths.rs")
        .flat_map(|(path, source)| unchecked_lengths(path, source))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Sums, products and sizes in bytes that nobody checks, and views that are believed; unit tests do
/// not count.
fn unchecked_lengths(path: &str, source: &str) -> Vec<String> {
    let tokens = without_tests(tokens(source));
    let mut found = Vec::new();
    for (at, (line, token)) in tokens.iter().enumerate() {
        let near = |distance: isize| {
            let at = at.checked_add_signed(distance).and_then(|at| tokens.get(at));
            at.map_or("", |(_, token)| token.as_str())
        };
        // `size_of::<T>() * n`: behind the type and the parentheses.
        let behind = tokens[at..].iter().position(|(_, token)| token == "(").unwrap_or(0) as isize;
        let complaint = match token.as_str() {
            "sum" | "product" if near(-1) == "." => "adds or multiplies by itself",
            "size_of" if near(-1) == "*" || near(behind + 2) == "*" => "multiplies by itself",
            "count" if near(-1) == "." && near(1) == "(" && path != "comm/view.rs" => {
                "believes a view"
            }
            _ => continue,
        };
        found.push(format!("src/{path}:{line}: {complaint}; see comm/lengths.rs and comm/view.rs"));
    }
    found
}

/// Unit tests may wait as they like.
fn waits_outside(path: &str, source: &str) -> Vec<String> {
    if WAITING_ROOMS.iter().any(|room| path.starts_with(room)) {
        return Vec::new();
    }
    let found = without_tests(tokens(source)).into_iter();
    found
        .filter(|(_, token)| WAITS.contains(&token.as_str()))
        .map(|(line, token)| {
            format!("src/{path}:{line}: `{token}` outside the rooms for waiting in tests/layers.rs")
        })
        .collect()
}

/// What stands before `mod tests`.
fn without_tests(mut tokens: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let end = tokens.windows(2).position(|pair| (&*pair[0].1, &*pair[1].1) == ("mod", "tests"));
    tokens.truncate(end.unwrap_or(tokens.len()));
    tokens
}

/// The table of verbs and forms in the documentation of `Comm` tells of the methods that there are,
/// and of no other.
#[test]
fn the_table_of_collectives_is_true() {
    const FORMS: [&str; 6] = ["x", "x_known", "x_into", "x_one", "ix", "x_obj"];
    let sources = sources();
    let (_, page) = sources.iter().find(|(path, _)| path == "comm/mod.rs").unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("/// |")?.strip_suffix('|'))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    assert_eq!(rows[0][1..=FORMS.len()], FORMS, "the table has other forms");
    let (on_comm, on_plan) = (methods(&sources, "Comm"), methods(&sources, "Plan"));
    let mut verbs = 0;
    for row in &rows[2..] {
        for verb in row[0].split(", ") {
            let (name, planned) = verb.strip_suffix('*').map_or((verb, false), |verb| (verb, true));
            let name = name.trim_matches('`');
            assert_eq!(on_plan.contains(name), planned, "the star of {name}");
            for (form, mark) in FORMS.iter().zip(&row[1..]) {
                let method = form.replacen('x', name, 1);
                assert_eq!(on_comm.contains(&method), *mark == "✓", "the mark of {method}");
            }
            verbs += 1;
        }
    }
    assert_eq!(verbs, 11, "the table is not read to its end");
}

/// The public methods of a type of the communicator's room.
fn methods(sources: &[(String, String)], of: &str) -> HashSet<String> {
    let mut found = HashSet::new();
    for (_, source) in sources.iter().filter(|(path, _)| path.starts_with("comm")) {
        let tokens = tokens(source);
        let words: Vec<&str> = tokens.iter().map(|(_, token)| token.as_str()).collect();
        let (mut depth, mut inside) = (0_usize, false);
        for (at, word) in words.iter().enumerate() {
            match *word {
                "impl" if depth == 0 => {
                    let head = words[at..].split(|word| *word == "{").next().unwrap_or_default();
                    inside = head.contains(&of) && !head.contains(&"for");
                }
                "{" => depth += 1,
                "}" => depth -= 1,
                "fn" if inside && depth == 1 && words[at - 1] == "pub" => {
                    found.insert(words[at + 1].to_owned());
                }
                _ => {}
            }
        }
    }
    found
}

/// Every source file of the library: its path below `src/` and its text. The command in `src/bin/`
/// stands upon its public calls, which the compiler sees to.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut directories, mut found) = (vec![root.clone()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.extend((path != root.join("bin")).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 20, "the sources are not where they are looked for");
    found
}

/// The modules of a file: `comm/p2p.rs` is `comm`, `p2p`.
fn modules(path: &str) -> Vec<&str> {
    let names = path.trim_end_matches(".rs").split('/');
    names.filter(|&name| name != "mod").collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The items that the crate's root exports, with the module that each comes from:
/// `pub use crate::{comm::{Comm, Cart}, ...}`.
fn exports(root: &str) -> HashMap<String, String> {
    let tokens = tokens(root);
    let texts: Vec<&str> = tokens.iter().map(|(_, token)| token.as_str()).collect();
    let mut found = HashMap::new();
    for start in 0..texts.len() {
        if !texts[start..].starts_with(&["pub", "use", "crate", "::"]) {
            continue;
        }
        let (mut depth, mut module) = (0_usize, None);
        for pair in texts[start + 4..].windows(2) {
            match pair[0] {
                ";" => break,
                "{" => depth += 1,
                "}" => depth -= 1,
                "::" | "," | "as" => {}
                name if pair[1] == "::" => module = layer(name).map(|_| name.to_owned()).or(module),
                name => found.extend(module.clone().map(|module| (name.to_owned(), module))),
            }
            if depth == 1 && pair[0] == "," {
                module = None;
            }
        }
    }
    found
}

fn upward_imports(path: &str, source: &str, exports: &HashMap<String, String>) -> Vec<String> {
    let modules = modules(path);
    let Some(own) = layer(modules[0]) else {
        return vec![format!(
            "src/{path}: module `{}` is in no layer; add it to LAYERS in tests/layers.rs",
            modules[0]
        )];
    };
    let judge = |(line, name): (usize, String)| match layer(exports.get(&name).unwrap_or(&name)) {
        Some(used) if used <= own => None,
        Some(used) => Some(format!(
            "src/{path}:{line}: `{}` (layer {own}) uses `{name}` (layer {used}); move what is shared downwards",
            modules[0]
        )),
        None => Some(format!(
            "src/{path}:{line}: `crate::{name}` is neither a module nor exported by the crate"
        )),
    };
    crate_paths(source, modules.len()).into_iter().filter_map(judge).collect()
}

fn unsafe_outside(path: &str, source: &str) -> Vec<String> {
    if UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
        return Vec::new();
    }
    let found = tokens(source).into_iter().filter(|(_, token)| token == "unsafe");
    found
        .map(|(line, _)| format!("src/{path}:{line}: unsafe code outside the rooms for it"))
        .collect()
}

/// The first names of all paths that begin at the crate's root, with their lines: `crate::x`,
/// `crate::{x, y::{z}}`, and `super::super::x` where it climbs as far. `depth` is the number of
/// modules around the file's items. What stands in `mod tests { .. }` does not count.
fn crate_paths(source: &str, depth: usize) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let token = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let (mut found, mut braces, mut inline) = (Vec::new(), 0_usize, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        match token(at) {
            "mod" if token(at + 2) == "{" => inline.push((braces, token(at + 1) == "tests")),
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                inline.pop_if(|(opened_at, _)| *opened_at == braces);
            }
            "crate" | "super" if inline.iter().any(|(_, is_tests)| *is_tests) => {}
            "crate" if token(at + 1) == "::" => {
                found.extend(first_names(&tokens, at + 2));
            }
            "super" if at == 0 || token(at - 1) != "::" => {
                let mut climbs = 1;
                while token(at + 1) == "::" && token(at + 2) == "super" {
                    climbs += 1;
                    at += 2;
                }
                if climbs >= depth + inline.len() && token(at + 1) == "::" {
                    found.extend(first_names(&tokens, at + 2));
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The name at `start`, or those that the group opened there begins with.
fn first_names(tokens: &[(usize, String)], start: usize) -> Vec<(usize, String)> {
    let Some(first) = tokens.get(start) else { return Vec::new() };
    if first.1 != "{" {
        return vec![first.clone()];
    }
    let (mut names, mut depth, mut begins) = (Vec::new(), 0_usize, false);
    for (line, token) in &tokens[start..] {
        match token.as_str() {
            "{" => {
                depth += 1;
                begins = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => begins = depth == 1,
            name if begins => {
                names.push((*line, name.to_owned()));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

/// Words, `::` and single signs with their lines; without comments, strings, characters and
/// lifetimes.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let (mut found, mut rest, mut line) = (Vec::new(), source, 1);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest) {
            length
        } else if first == '\'' {
            character_or_lifetime(rest)
        } else if word > 0 {
            found.push((line, rest[..word].to_owned()));
            word
        } else if rest.starts_with("::") {
            found.push((line, "::".to_owned()));
            2
        } else {
            if !first.is_whitespace() {
                found.push((line, first.to_string()));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// The length of a block comment, which may contain others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string literal of any kind, if there is one here.
fn string(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        let quoted = raw.trim_start_matches('#');
        let hashes = raw.len() - quoted.len();
        let close = format!("\"{}", "#".repeat(hashes));
        let content = quoted.strip_prefix('"')?;
        let end = content.find(&close).map_or(content.len(), |end| end + close.len());
        return Some(prefix + 1 + hashes + 1 + end);
    }
    let content = body.strip_prefix('"').filter(|_| prefix <= 1)?;
    let mut escaped = false;
    let end = content.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(prefix + 1 + end.map_or(content.len(), |end| end + 1))
}

/// The length of what a single quote begins.
fn character_or_lifetime(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        // An escaped character ends at the first quote after the character that the backslash
        // escapes.
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(text.len(), |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

mod the_parser {
    use super::*;

    fn names(source: &str, depth: usize) -> Vec<String> {
        crate_paths(source, depth).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn sees_every_form_of_import() {
        assert_eq!(names("use crate::engine::Rank;", 1), ["engine"]);
        assert_eq!(names("pub(crate) use crate :: comm;", 1), ["comm"]);
        let nested = "use crate::{\n    comm::{self, Comm, group::{x, y}},\n    error::Error,\n    datum,\n};";
        assert_eq!(names(nested, 1), ["comm", "error", "datum"]);
        assert_eq!(
            names("fn f() -> crate::io::File { crate::launch::run() }", 1),
            ["io", "launch"]
        );
        assert_eq!(names("macro_rules! m { () => { $crate::comm::x() } }", 1), ["comm"]);
    }

    #[test]
    fn sees_paths_that_climb_to_the_root() {
        assert_eq!(names("use super::launch;", 1), ["launch"]);
        assert_eq!(names("use super::launch;", 2), [""; 0]);
        assert_eq!(names("use super::super::{launch::run, io};", 2), ["launch", "io"]);
        assert_eq!(
            names("mod parts { use super::*; use super::super::cli; } use super::io;", 1),
            ["cli", "io"]
        );
    }

    #[test]
    fn ignores_what_is_no_code() {
        let source = r##"
            //! See [`crate::launch`].
            /* crate::io /* nested */ crate::io */
            pub(crate) fn quote<'a>(text: &'a str) -> char {
                let _ = ("crate::cli", r#"unsafe crate::cli"#, b"crate::cli \" crate::cli", '"', '\'', '\\');
                'x'
            }
        "##;
        assert_eq!(names(source, 1), [""; 0]);
        assert_eq!(unsafe_outside("comm/mod.rs", source), [""; 0]);
    }

    #[test]
    fn lets_unit_tests_stand_on_what_is_above() {
        let source = "use crate::comm; #[cfg(test)] mod tests { use crate::launch::local; mod a { use super::super::super::cli; } } use crate::io;";
        assert_eq!(names(source, 1), ["comm", "io"]);
    }

    #[test]
    fn counts_lines() {
        let source = "// one\nconst TWO: &str = \"\n\";\nuse crate::io;\n";
        assert_eq!(crate_paths(source, 1), [(4, "io".to_owned())]);
    }

    #[test]
    fn knows_where_exports_come_from() {
        let root = "mod comm;\npub use bytemuck;\npub use crate::{comm::{Comm, group::Cart}, launch::run,\n};\npub mod prelude { pub use crate::Comm; }";
        let mut exports: Vec<_> = exports(root).into_iter().collect();
        exports.sort();
        let expected = [("Cart", "comm"), ("Comm", "comm"), ("run", "launch")];
        assert_eq!(exports, expected.map(|(name, module)| (name.to_owned(), module.to_owned())));
    }

    #[test]
    fn finds_lengths_that_nobody_checks() {
        let complaints = |source| unchecked_lengths("comm/p2p.rs", source).len();
        assert_eq!(complaints("fn f() { counts.iter().sum::<usize>() }"), 1);
        assert_eq!(complaints("fn f() { dims.iter().product() }"), 1);
        assert_eq!(complaints("fn f() { size_of::<T>() * count }"), 1);
        assert_eq!(complaints("fn f() { count * size_of::<V::Elem>() }"), 1);
        assert_eq!(complaints("fn f() { out.count() }"), 1);
        assert_eq!(complaints("fn f() { bytes / size_of::<T>() } mod tests { x.sum() }"), 0);
    }

    #[test]
    fn finds_planted_violations() {
        let exports = [("run", "launch"), ("Error", "error")]
            .map(|(name, module)| (name.to_owned(), module.to_owned()))
            .into();
        let complaints = |path, source| upward_imports(path, source, &exports);
        let upward = complaints("engine/local/mod.rs", "use crate::{error::Call,\n launch::run};");
        assert_eq!(upward.len(), 1);
        assert!(
            upward[0].starts_with("src/engine/local/mod.rs:2: `engine` (layer 1) uses `launch`")
        );
        assert_eq!(complaints("comm/mod.rs", "use crate::{datum, engine, comm, Error};"), [""; 0]);
        assert_eq!(complaints("comm/mod.rs", "fn f() { crate::run() }").len(), 1, "by its export");
        assert_eq!(complaints("comm/mod.rs", "use crate::nowhere;").len(), 1);
        assert_eq!(complaints("helpers.rs", "").len(), 1, "a module without a layer");
        assert_eq!(unsafe_outside("comm/p2p.rs", "fn f() { unsafe { g() } }").len(), 1);
        assert_eq!(unsafe_outside("engine/local/parking.rs", "unsafe impl Send for X {}"), [""; 0]);
        let waits = "fn f() { std::thread::yield_now() } mod tests { fn g() { sleep(x) } }";
        assert_eq!(waits_outside("comm/p2p.rs", waits).len(), 1);
        assert_eq!(waits_outside("engine/mpi/progress.rs", waits), [""; 0]);
    }
}
