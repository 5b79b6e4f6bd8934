//! What systemd is told: readiness, status, signs of life, the end.
mod common;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use common::receiver::walring_command;
use common::wait::{self, until, within};
use common::{Archive, Http, Process, Server, SmallDisk};

/// Short, so that the test is; what is fed arrives every half of it.
const WATCHDOG_US: &str = "400000";

/// A service manager: it listens, and keeps what it is told.
struct Manager {
    directory: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new() -> Manager {
        let directory = tempfile::tempdir().expect("create a directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bind a socket");
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        // Ends with the test program.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                heard.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Manager { directory, told }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// Every line so far.
    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.told().iter().filter(|told| *told == line).count()
    }

    /// Waits for a line that begins so.
    #[track_caller]
    fn wait_for(&self, start: &str) -> String {
        let found = within(wait::HANG, || {
            self.told().into_iter().find(|line| line.starts_with(start))
        });
        found.unwrap_or_else(|| panic!("no {start:?} in {:#?}", self.told()))
    }
}

fn service(server: &Server, archive: &Archive, manager: &Path, arguments: &[&str]) -> Command {
    let mut command = walring_command(server, archive, arguments);
    command.env("NOTIFY_SOCKET", manager);
    command
}

#[test]
fn readiness_status_and_the_end_are_told() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    let receiver = Process::spawn(service(&server, &archive, &manager.path(), &["--synchronous"]));
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=streaming at ");
    assert_eq!(manager.count("STOPPING=1"), 0);
    receiver.stop();
    manager.wait_for("STOPPING=1");
    assert_eq!(manager.count("READY=1"), 1);
    assert_eq!(manager.count("WATCHDOG=1"), 0, "nobody asked for signs of life");
}

#[test]
fn it_is_ready_only_once_it_streams() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    server.stop_fast();
    let _receiver = Process::spawn(service(&server, &archive, &manager.path(), &[]));
    let status = manager.wait_for("STATUS=waiting to connect to ");
    assert!(status.contains("connection to server on socket"), "{status}");
    assert_eq!(manager.count("READY=1"), 0);
    server.start_again();
    manager.wait_for("READY=1");
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn a_full_disk_is_told_in_the_status_and_the_watchdog_is_still_fed() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let (server, archive, manager) = (Server::start(), Archive::below(&disk.path()), Manager::new());
    disk.fill_up_to(4);
    let mut command = service(&server, &archive, &manager.path(), &["--synchronous"]);
    command.env("WATCHDOG_USEC", WATCHDOG_US);
    let _receiver = Process::spawn(command);
    manager.wait_for("READY=1");
    server.write_wal(8000);
    let status = manager.wait_for("STATUS=waiting for 1.0 MiB of room in ");
    assert!(status.contains("No space left on device"), "{status}");
    wait_for_more(&manager);
}

#[test]
fn a_lost_server_is_told_in_the_status_and_the_watchdog_is_still_fed() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    let mut command = service(&server, &archive, &manager.path(), &["--synchronous"]);
    command.env("WATCHDOG_USEC", WATCHDOG_US);
    let _receiver = Process::spawn(command);
    manager.wait_for("READY=1");
    server.stop_fast();
    manager.wait_for("STATUS=waiting to connect to ");
    wait_for_more(&manager);
    server.start_again();
    until("it streams again", || {
        let told = manager.told();
        let last = told.iter().rfind(|line| line.starts_with("STATUS="))?;
        last.starts_with("STATUS=streaming at ").then_some(())
    });
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn a_quiet_stream_feeds_the_watchdog() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    let mut command = service(&server, &archive, &manager.path(), &["--synchronous", "-s", "0"]);
    command.env("WATCHDOG_USEC", WATCHDOG_US);
    let _receiver = Process::spawn(command);
    manager.wait_for("READY=1");
    wait_for_more(&manager);
}

#[test]
fn a_busy_stream_feeds_the_watchdog() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    server.pgbench_init();
    let mut command = service(&server, &archive, &manager.path(), &["--synchronous"]);
    command.env("WATCHDOG_USEC", WATCHDOG_US);
    let _receiver = Process::spawn(command);
    manager.wait_for("READY=1");
    let load = server.start_pgbench(&["-n", "-c", "4", "-T", "60"]);
    wait_for_more(&manager);
    load.kill();
}

#[test]
fn a_hung_loop_starves_the_watchdog_although_another_thread_answers() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    let arguments = ["--synchronous", "--listen=127.0.0.1:0"];
    let mut command = service(&server, &archive, &manager.path(), &arguments);
    command.env("WATCHDOG_USEC", WATCHDOG_US);
    let receiver = Process::spawn(command);
    let http = Http::of(&receiver);
    manager.wait_for("READY=1");
    wait_for_more(&manager);
    // Being traced stops this one thread: the one that receives.
    let thread = Pid::from_raw(receiver.pid().as_raw_nonzero().get());
    ptrace::attach(thread).expect("trace the receiver");
    waitpid(thread, None).expect("wait until it stands still");
    // One sign of life may be under way. The clock by which it is missed is the other thread's.
    let uptime = http.metric("walring_uptime_seconds");
    http.wait_metric("walring_uptime_seconds", |now| now > uptime + 1.0);
    let before = manager.count("WATCHDOG=1");
    http.wait_metric("walring_uptime_seconds", |now| now > uptime + 3.0);
    assert_eq!(manager.count("WATCHDOG=1"), before);
    ptrace::detach(thread, None).expect("let the receiver go on");
    wait_for_more(&manager);
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    let arguments = ["--synchronous", "--listen=127.0.0.1:0"];
    let mut command = service(&server, &archive, &manager.path(), &arguments);
    command.env("WATCHDOG_USEC", WATCHDOG_US).env("WATCHDOG_PID", "1");
    let receiver = Process::spawn(command);
    manager.wait_for("READY=1");
    Http::of(&receiver).wait_metric("walring_uptime_seconds", |seconds| seconds > 1.5);
    assert_eq!(manager.count("WATCHDOG=1"), 0);
}

#[test]
fn an_end_by_an_error_is_told_too() {
    let (server, archive, manager) = (Server::start(), Archive::new(), Manager::new());
    server.stop_fast();
    let exit = Process::spawn(service(&server, &archive, &manager.path(), &["-n"])).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    manager.wait_for("STOPPING=1");
    assert_eq!(manager.count("READY=1"), 0);
}

#[test]
fn a_manager_that_does_not_listen_is_no_error() {
    let (server, archive) = (Server::start(), Archive::new());
    let nowhere = Path::new("/nonexistent/notify");
    let receiver = Process::spawn(service(&server, &archive, nowhere, &["--synchronous"]));
    server.wait_flushed(server.write_wal(10));
    receiver.stop();
}

/// Waits for five more signs of life.
#[track_caller]
fn wait_for_more(manager: &Manager) {
    let before = manager.count("WATCHDOG=1");
    until("the watchdog is fed", || {
        (manager.count("WATCHDOG=1") >= before + 5).then_some(())
    });
}
