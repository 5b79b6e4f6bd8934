//! libpq itself, to be asked what it makes of connection settings.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

use super::postgres::Installation;
use super::skip::skip;

/// One libpq, in a process of its own; `libpq.py` beside this file.
pub struct Libpq {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    about: About,
}

#[derive(Deserialize)]
struct About {
    version: u32,
    directory: String,
    options: BTreeMap<String, (Option<String>, Option<String>)>,
}

/// What libpq resolved.
#[derive(Debug)]
pub struct Resolved {
    pub values: BTreeMap<String, String>,
    /// The password for the first host.
    pub password: Option<String>,
}

impl Libpq {
    /// Those of the oldest and the newest PostgreSQL there is a difference to; what is missing is said.
    pub fn all() -> Vec<Libpq> {
        let installations = [Some(Installation::standard()), Installation::version(18)];
        let found: Vec<Libpq> = installations
            .into_iter()
            .flatten()
            .filter_map(|installation| Libpq::of(&installation))
            .collect();
        if found.is_empty() {
            skip("comparison with libpq: no libpq.so.5, or no python3 with ctypes");
        }
        found
    }

    fn of(installation: &Installation) -> Option<Libpq> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/libpq.py");
        let mut process = Command::new("python3")
            .arg(script)
            .arg(library(installation)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let questions = process.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        answers.read_line(&mut line).ok()?;
        let Ok(about) = serde_json::from_str(&line) else {
            let _ = process.wait();
            return None;
        };
        Some(Libpq {
            process,
            questions,
            answers,
            about,
        })
    }

    /// As in `150018`.
    pub fn version(&self) -> u32 {
        self.about.version
    }

    /// Where it looks for the server's socket.
    pub fn socket_directory(&self) -> &str {
        &self.about.directory
    }

    /// The options it knows.
    pub fn keywords(&self) -> Vec<&str> {
        self.about.options.keys().map(String::as_str).collect()
    }

    /// The environment variables of its options.
    pub fn variables(&self) -> Vec<&str> {
        let variables = self.about.options.values();
        variables
            .filter_map(|(variable, _)| variable.as_deref())
            .collect()
    }

    /// What an option is if nobody says anything.
    pub fn default(&self, keyword: &str) -> Option<&str> {
        self.about.options[keyword].1.as_deref()
    }

    /// What a connection string says, or libpq's error.
    pub fn parse(&mut self, string: &str) -> Result<BTreeMap<String, String>, String> {
        Ok(self.ask(&json!({"parse": by_bytes(string)}))?.values)
    }

    /// What pg_receivewal would use with `-d string` and `options` for others.
    pub fn resolve(
        &mut self,
        string: &str,
        options: &BTreeMap<&str, String>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Resolved, String> {
        let options: BTreeMap<&str, String> = options
            .iter()
            .map(|(name, value)| (*name, by_bytes(value)))
            .collect();
        let environment: BTreeMap<&str, String> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), by_bytes(value)))
            .collect();
        self.ask(&json!({"connect": [by_bytes(string), options], "environment": environment}))
    }

    fn ask(&mut self, question: &Value) -> Result<Resolved, String> {
        writeln!(self.questions, "{question}").expect("ask libpq");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer of libpq");
        let answer: Value = serde_json::from_str(&line).expect("an answer of libpq");
        if let Some(error) = answer["error"].as_str() {
            return Err(by_characters(error).trim_end().to_owned());
        }
        let values = answer["values"].as_object().expect("values").iter();
        let text = |value: &Value| value.as_str().map(by_characters);
        Ok(Resolved {
            values: values
                .map(|(keyword, value)| (keyword.clone(), text(value).expect("a value")))
                .collect(),
            password: text(&answer["password"]).filter(|password| !password.is_empty()),
        })
    }
}

impl Drop for Libpq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn library(installation: &Installation) -> Option<PathBuf> {
    let bin = installation.path("pg_config").parent()?.canonicalize().ok()?;
    let told = installation.command("pg_config").arg("--libdir").output();
    let told = told.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    });
    let directories = [bin.join("../lib"), PathBuf::from(told)];
    let mut files = directories
        .into_iter()
        .map(|directory| directory.join("libpq.so.5"));
    files.find(|file| file.exists())
}

/// A character for each byte, as `libpq.py` reads it.
fn by_bytes(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

/// The opposite; what is not UTF-8 becomes U+FFFD.
fn by_characters(text: &str) -> String {
    let bytes: Vec<u8> = text.chars().map(|character| character as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
