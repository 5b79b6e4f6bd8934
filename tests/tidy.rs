//! Rules of style that a machine can check.

use std::path::{Path, PathBuf};

const LONGEST_FUNCTION: usize = 70;
const LONGEST_FILE: usize = 700;

#[test]
fn the_core_has_no_clock_no_files_no_sockets_and_knows_no_other_layer() {
    let forbidden = [
        "std::fs",
        "std::net",
        "Instant::now",
        "SystemTime",
        "crate::edge",
        "crate::ring",
        "tokio",
        "std::env",
    ];
    for (path, text) in sources("src/core") {
        for (number, line) in code_lines(&text) {
            for word in forbidden {
                assert!(
                    !line.contains(word),
                    "{}:{number}: the core names {word}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_is_found_in_the_ring_only() {
    for (path, text) in sources("src") {
        if path.starts_with("src/ring") {
            continue;
        }
        for (number, line) in code_lines(&text) {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(
                !words.any(|word| word == "unsafe"),
                "{}:{number}: unsafe outside the ring",
                path.display()
            );
        }
    }
}

#[test]
fn functions_are_short() {
    for (path, text) in all_sources() {
        for (name, length) in functions(&text) {
            assert!(
                length <= LONGEST_FUNCTION,
                "{}: {name} has {length} lines",
                path.display()
            );
        }
    }
}

#[test]
fn files_are_short() {
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_sentence_of_the_crash_argument_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = read(&root.join("README.md"));
    let argument = readme.split("### Who checks it").nth(1).expect("the argument");
    let argument = argument.split("\n#").next().unwrap_or(argument);
    let rows = argument.lines().filter(|line| line.starts_with("| ")).skip(2);
    for row in rows.chain(argument.lines().filter(|line| line.contains("(`tests/"))) {
        let named: Vec<_> = row.split('`').filter_map(|word| word.split_once("::")).collect();
        assert!(!named.is_empty(), "no test checks: {row}");
        for (file, test) in named {
            let source = read(&root.join(file));
            let definition = format!("#[test]\nfn {test}()");
            assert!(source.contains(&definition), "{file} has no test {test}");
        }
    }
}

#[test]
fn a_long_function_would_be_found() {
    let text = ["    fn long() {", &"        line();\n".repeat(80), "    }\n"].join("\n");
    assert!(functions(&text)[0].1 > LONGEST_FUNCTION);
}

/// Every Rust file of the repository.
fn all_sources() -> Vec<(PathBuf, String)> {
    let directories = ["src", "tests", "benches", "perf/src"];
    directories.into_iter().flat_map(sources).collect()
}

/// Every Rust file below a directory of the repository.
fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(&root.join(directory), &mut found);
    assert!(!found.is_empty(), "no source in {directory}");
    found
        .into_iter()
        .map(|path| (path.strip_prefix(root).unwrap().to_owned(), read(&path)))
        .collect()
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("list sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("read a source")
}

/// The numbered lines, without comments, and without a file's tests at its end.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let until_tests = text.lines().take_while(|line| *line != "#[cfg(test)]");
    until_tests
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// Each function with its number of lines: from `fn` to the closing brace in the same column, as rustfmt puts it.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[start..]
            .iter()
            .position(|line| *line == closing)
            .map_or(1, |last| last + 1);
        found.push((name.to_owned(), length));
    }
    found
}

/// The function that a line begins, if it has a body that goes on in the next lines.
fn function_name(line: &str) -> Option<&str> {
    let code = line.split("//").next()?;
    let (before, after) = code.split_once("fn ")?;
    let modifiers = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "async",
        "unsafe",
        "extern",
        "\"C\"",
    ];
    let is_definition = before.split_whitespace().all(|word| modifiers.contains(&word));
    let goes_on = !code.trim_end().ends_with('}') && !code.trim_end().ends_with(';');
    (is_definition && goes_on).then(|| after.split(['(', '<']).next().unwrap_or(after))
}
