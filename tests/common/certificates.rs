//! Real certificates, keys and revocation lists, made once by `certificates.sh`: its names say what is special.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::process::run;
use super::scratch::{open_to_server_user, scratch};

const RECIPE: &str = include_str!("certificates.sh");

/// The path of one of the files.
pub fn path(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.exists(), "certificates.sh makes no {name}");
    path
}

/// The same as text, for a connection string.
pub fn file(name: &str) -> String {
    path(name).display().to_string()
}

/// Where they are, made on first use. Another recipe has another directory; test programs that run at the same time
/// may both follow it, and the first rename wins.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        RECIPE.hash(&mut hasher);
        let uid = rustix::process::geteuid().as_raw();
        let finished = scratch().join(format!("walring-certificates-{uid}-{:016x}", hasher.finish()));
        if !finished.exists() {
            let work = tempfile::Builder::new()
                .prefix("certificates-")
                .tempdir_in(scratch())
                .expect("create a directory for certificates");
            open_to_server_user(work.path());
            make(&work.path().join("made"));
            let _ = std::fs::rename(work.path().join("made"), &finished);
        }
        finished
    })
}

fn make(directory: &Path) {
    std::fs::create_dir(directory).expect("create a directory for certificates");
    let mut bash = Command::new("bash");
    bash.args(["-c", RECIPE, "certificates.sh"]).arg(directory);
    bash.stdin(Stdio::null());
    run(bash);
}
