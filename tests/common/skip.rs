//! What cannot be tested here is said.

use std::io::Write;
use std::path::Path;

/// Reports, at the end of `tests/run.sh`, what was not tested and why.
pub fn skip(what: &str) {
    let line = format!("skipped: {what}\n");
    eprint!("{line}");
    if let Some(dir) = std::env::var_os("WALRING_TEST_DIR") {
        let path = Path::new(&dir).join("skipped");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("note what is skipped");
    }
}
