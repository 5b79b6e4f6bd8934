//! The README's recipes do what it says, step by step: those that need nothing but PostgreSQL and openssl.
//!
//! `tests/recipes/run.sh` runs the others, too.
mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::skip::skip;

/// With this exit code a script says that it could not be run here.
const SKIPPED: i32 = 77;

#[test]
fn the_recipe_for_a_primary_whose_commits_wait_is_true() {
    run("plain");
}

#[test]
fn the_recipe_for_cloudnativepg_is_true_as_far_as_it_needs_no_kubernetes() {
    run("cnpg");
}

#[test]
fn the_recipe_for_a_standby_as_the_source_is_true() {
    run("cascade");
}

#[test]
fn a_recipe_that_the_readme_does_not_have_fails() {
    let source = "recipe=none; block 'no such code'";
    let lib = script("lib");
    let output = Command::new("bash")
        .args(["-c", &format!("source {lib}; {source}")])
        .output()
        .expect("run bash");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Runs a script, which stops and removes what it starts and makes.
fn run(recipe: &str) {
    let output = Command::new(script(recipe))
        .env("WALRING", env!("CARGO_BIN_EXE_walring"))
        .stdin(Stdio::null())
        .output()
        .expect("run the recipe");
    let told = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => (),
        Some(SKIPPED) => {
            let reason = told.lines().find_map(|line| line.strip_prefix("skipped: "));
            skip(reason.expect("a reason"));
        }
        _ => panic!("{told}\n{wrong}"),
    }
}

fn script(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recipes/{name}.sh"));
    path.to_str().expect("a path in UTF-8").to_owned()
}
