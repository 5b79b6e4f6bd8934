//! Recovery of a base backup from a receiver's directory alone.

use super::archive::Archive;
use super::scratch::give_to_server_user;
use super::server::Server;
use super::wait::until;

/// Recovers a copy from the archive, the partial segment last, and makes it writable.
pub fn restore(copy: &Server, archive: &Archive) {
    let files = copy.socket_directory().join("archive");
    std::fs::create_dir(&files).expect("create a directory");
    for name in archive.names() {
        let to = files.join(name.trim_end_matches(".partial"));
        std::fs::copy(archive.file(&name), &to).expect("copy the archive");
        give_to_server_user(&to);
    }
    copy.append_config(&format!(
        "restore_command = 'cp {}/%f %p'\nhot_standby = off\n",
        files.display()
    ));
    std::fs::write(copy.data().join("recovery.signal"), "").expect("ask for recovery");
    copy.start_again();
    until("the copy is recovered", || {
        copy.try_sql("select pg_is_in_recovery()")
            .ok()
            .filter(|answer| answer == "f")
    });
}
