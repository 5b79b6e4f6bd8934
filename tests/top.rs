//! `walring top` shows a running receiver. Here the receiver is a few lines that answer HTTP, so that it can also answer
//! nonsense, or nothing; `dashboard.rs` has a real one.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use common::process::{Exit, Process};
use common::scratch::free_port;
use common::terminal::Terminal;
use common::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use walring::edge::status::{Distribution, Latencies, Positions, Status, Totals};

/// What takes the screen: the alternate one, no cursor, no wrapping.
const ENTERED: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";

/// What gives it back.
const LEFT: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Answers every request with the same, and counts them.
struct FakeReceiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeReceiver {
    /// `answer` is made for each request, the whole of it; `None`: the connection stays open and silent.
    fn answering(answer: impl Fn() -> Option<Vec<u8>> + Send + 'static) -> FakeReceiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (Arc::clone(&requests), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.expect("accept");
                seen.lock().unwrap().push(request(&mut stream));
                match answer() {
                    // Whoever asked may be gone already.
                    Some(answer) => drop(stream.write_all(&answer)),
                    None => silent.push(stream),
                }
            }
        });
        FakeReceiver {
            address,
            requests,
            ends,
            thread: Some(thread),
        }
    }

    fn telling(status: impl Fn() -> Status + Send + 'static) -> FakeReceiver {
        FakeReceiver::answering(move || Some(http(&serde_json::to_string(&status()).unwrap())))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for FakeReceiver {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// The head of a request; one without a body is expected.
fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("a request is text")
}

fn http(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        status: "streaming".into(),
        healthy: true,
        reason: None,
        uptime_seconds: 10.0,
        time_unix_seconds: 1_700_000_000.0,
        directory: "/srv/wal".into(),
        slot: Some("archive".into()),
        slot_watch: None,
        synchronous: true,
        verify: "records".into(),
        upstream_host: "db1".into(),
        upstream_port: 5432,
        server_version: None,
        system_identifier: None,
        timeline: Some(3),
        segment: Some("000000030000000000000007.partial".into()),
        positions: Positions {
            flushed: Some("0/7000148".into()),
            ..Positions::default()
        },
        lag_bytes: 0,
        lag_seconds: 0.0,
        totals: Totals {
            bytes: 10 << 20,
            transactions: 100,
            ..Totals::default()
        },
        free_bytes: None,
        latency: Latencies {
            durable: Distribution {
                count: 100,
                p50_us: 215,
                doublings: vec![(128, 100)],
                ..Distribution::default()
            },
            ..Latencies::default()
        },
        savings: None,
    }
}

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walring"));
    command
        .arg("top")
        .args(arguments)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm");
    command
}

fn once(address: &str) -> Exit {
    Process::spawn(top(&["--once", address])).finish()
}

/// An address where nobody listens.
fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[test]
fn once_prints_one_plain_frame() {
    let receiver = FakeReceiver::telling(status);
    let exit = once(&receiver.address());
    exit.assert_success();
    let lines: Vec<&str> = exit.stdout.lines().collect();
    assert!(lines[0].starts_with("walring 0.1.0 from db1:5432 "), "{exit:#?}");
    assert_eq!(
        lines[1],
        "streaming, healthy, slot archive, timeline 3, synchronous, verify records"
    );
    assert!(exit.stdout.contains("flushed    0/7000148"), "{exit:#?}");
    assert!(
        exit.stdout
            .contains("rate       1.0 MiB/s, 10 transactions/s  (mean since it started)\n")
    );
    assert!(!exit.stdout.contains('\x1b'), "{exit:#?}");
    assert_eq!(exit.stderr, [""; 0]);
}

#[test]
fn the_status_is_asked_for_below_the_path_of_a_url() {
    let receiver = FakeReceiver::telling(status);
    once(&format!("http://{}/wal/", receiver.address())).assert_success();
    let request = receiver.requests().remove(0);
    assert!(
        request.starts_with("GET /wal/v1/status HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request
            .to_lowercase()
            .contains(&format!("\r\nhost: {}\r\n", receiver.address())),
        "{request}"
    );
}

#[test]
fn a_receiver_that_is_not_there_is_one_line_and_a_failure() {
    let address = nowhere();
    let exit = once(&address);
    exit.assert_error(&format!(
        "walring: error: {address}: not reachable: Connection refused"
    ));
    assert_eq!((exit.stderr.len(), exit.stdout.as_str()), (1, ""));
}

#[test]
fn what_is_no_status_is_one_line_and_a_failure() {
    let cases: [(Vec<u8>, &str); 6] = [
        (
            http("<html>"),
            "no status of a receiver: expected value at line 1 column 1",
        ),
        (
            http("{}"),
            "no status of a receiver: missing field `version` at line 1 column 2",
        ),
        (
            http(&"a".repeat(2 << 20)),
            "no status of a receiver: length limit exceeded",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(),
            "no status of a receiver: HTTP status 404 Not Found",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n".into(),
            "not reachable: invalid HTTP version parsed",
        ),
        (
            Vec::new(),
            "not reachable: connection closed before message completed",
        ),
    ];
    for (answer, expected) in cases {
        let receiver = FakeReceiver::answering(move || Some(answer.clone()));
        let exit = once(&receiver.address());
        exit.assert_error(&format!("walring: error: {}: {expected}", receiver.address()));
        assert_eq!((exit.stderr.len(), exit.stdout.as_str()), (1, ""), "{exit:#?}");
    }
}

#[test]
fn a_receiver_that_is_silent_is_given_up() {
    let receiver = FakeReceiver::answering(|| None);
    let exit = once(&receiver.address());
    exit.assert_error(&format!(
        "walring: error: {}: not reachable: no answer within 3 s",
        receiver.address()
    ));
}

#[test]
fn without_a_terminal_plain_frames_follow_each_other_until_a_signal() {
    for signal in [Signal::INT, Signal::TERM] {
        let receiver = FakeReceiver::telling(status);
        let shown = Process::spawn(top(&["--interval=0.1", &receiver.address()]));
        until("three frames", || (receiver.requests().len() > 3).then_some(()));
        let exit = shown.end_by(signal);
        exit.assert_success();
        assert!(
            exit.stdout.matches("\n\nwalring 0.1.0 from db1:5432 ").count() >= 2,
            "{exit:#?}"
        );
        assert!(!exit.stdout.contains('\x1b'), "{exit:#?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_the_end() {
    let receiver = FakeReceiver::telling(status);
    let mut command = top(&["--interval=0.1", &receiver.address()]);
    let mut shown = Shown(command.stdout(Stdio::piped()).spawn().expect("start walring"));
    drop(shown.0.stdout.take());
    assert_eq!(shown.finish(), Some(0));
}

/// A started `top`; killed when it goes out of scope.
struct Shown(Child);

impl Shown {
    fn finish(&mut self) -> Option<i32> {
        until("the end of walring top", || self.0.try_wait().expect("wait")).code()
    }

    /// As the kernel has it: behind the name in parentheses.
    fn is_stopped(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("read its state");
        state
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal with `top` on it.
struct Screen {
    shown: Shown,
    terminal: Terminal,
}

impl Deref for Screen {
    type Target = Terminal;

    fn deref(&self) -> &Terminal {
        &self.terminal
    }
}

impl Screen {
    fn with(mut command: Command, columns: u16, rows: u16) -> Screen {
        let terminal = Terminal::open();
        terminal.resize(columns, rows);
        command.stdin(terminal.device()).stdout(terminal.device());
        Screen {
            shown: Shown(command.spawn().expect("start walring")),
            terminal,
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.shown.0), signal).expect("send a signal");
    }

    /// Asserts that it ended well and gave the terminal back.
    fn assert_restored(mut self) {
        assert_eq!(self.shown.finish(), Some(0));
        assert!(self.echoes());
        until("the screen is given back", || {
            self.text().ends_with(LEFT).then_some(())
        });
    }
}

/// A receiver that gets a MiB and ten transactions in a tenth of its seconds.
fn busy() -> FakeReceiver {
    let answers = AtomicU64::new(0);
    FakeReceiver::telling(move || {
        let answer = answers.fetch_add(1, Ordering::Relaxed);
        let mut status = status();
        status.uptime_seconds += answer as f64 / 10.0;
        status.totals.bytes += answer << 20;
        status.totals.transactions += answer * 10;
        status
    })
}

#[test]
fn on_a_terminal_the_frame_is_drawn_in_place_until_q_is_pressed() {
    let receiver = busy();
    let terminal = Screen::with(top(&["--interval=0.1", &receiver.address()]), 80, 24);
    terminal.wait_for("10.0 MiB/s, 100 transactions/s");
    assert!(!terminal.echoes());
    let text = terminal.text();
    assert!(
        text.starts_with(&format!("{ENTERED}\x1b[H\x1b[1mwalring 0.1.0")),
        "{text:?}"
    );
    assert!(text.contains("\x1b[32mstreaming, healthy\x1b[0m"), "{text:?}");
    assert!(text.contains('█'), "{text:?}");
    terminal.press(b"x");
    terminal.press(b"q");
    terminal.assert_restored();
}

#[test]
fn a_signal_gives_the_terminal_back() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let receiver = busy();
        let terminal = Screen::with(top(&[&receiver.address()]), 80, 24);
        terminal.wait_for("healthy");
        terminal.signal(signal);
        terminal.assert_restored();
    }
}

#[test]
fn no_colour_is_used_where_none_is_wanted() {
    let receiver = busy();
    let mut command = top(&["--interval=0.1", &receiver.address()]);
    command.env("NO_COLOR", "1");
    let terminal = Screen::with(command, 80, 24);
    terminal.wait_for("\x1b[Hwalring 0.1.0");
    assert!(!terminal.text().contains("[0m"), "{:?}", terminal.text());
    terminal.press(b"q");
    terminal.assert_restored();
}

#[test]
fn a_small_terminal_gets_what_fits() {
    let receiver = busy();
    let terminal = Screen::with(top(&["--interval=0.1", &receiver.address()]), 20, 5);
    terminal.wait_for("\x1b[J\x1b[H");
    terminal.press(b"q");
    let frame = terminal.text();
    let frame = frame.split("\x1b[H").nth(1).expect("a frame");
    assert_eq!(frame.matches("\r\n").count(), 4, "{frame:?}");
    assert!(!frame.contains("db1:5432"), "{frame:?}");
    terminal.assert_restored();
}

#[test]
fn a_frame_is_drawn_anew_when_the_terminal_changes_its_size() {
    let receiver = busy();
    let terminal = Screen::with(top(&["--interval=3600", &receiver.address()]), 20, 5);
    terminal.wait_for("healthy");
    terminal.resize(80, 24);
    terminal.signal(Signal::WINCH);
    terminal.wait_for("db1:5432");
    terminal.press(b"q");
    terminal.assert_restored();
}

#[test]
fn the_shell_gets_the_terminal_while_it_is_stopped() {
    let receiver = busy();
    let terminal = Screen::with(top(&["--interval=3600", &receiver.address()]), 80, 24);
    terminal.wait_for("healthy");
    terminal.signal(Signal::TSTP);
    until("it is stopped", || terminal.shown.is_stopped().then_some(()));
    assert!(terminal.echoes());
    until("the screen is given back", || {
        terminal.text().ends_with(LEFT).then_some(())
    });
    terminal.signal(Signal::CONT);
    until("it is drawn again", || {
        let text = terminal.text();
        (text.matches("healthy").count() == 2 && text.matches(ENTERED).count() == 2).then_some(())
    });
    assert!(!terminal.echoes());
    terminal.press(b"q");
    terminal.assert_restored();
}

#[test]
fn a_receiver_that_comes_and_goes_is_shown_again() {
    let here = Arc::new(AtomicBool::new(false));
    let is_here = Arc::clone(&here);
    let receiver = FakeReceiver::answering(move || {
        let body = serde_json::to_string(&status()).unwrap();
        is_here
            .load(Ordering::Relaxed)
            .then(|| http(&body))
            .or(Some(Vec::new()))
    });
    let terminal = Screen::with(top(&["--interval=0.1", &receiver.address()]), 80, 24);
    terminal.wait_for("not reachable: connection closed before message completed");
    here.store(true, Ordering::Relaxed);
    terminal.wait_for("healthy");
    here.store(false, Ordering::Relaxed);
    terminal.wait_for("last seen streaming");
    terminal.press(b"q");
    terminal.assert_restored();
}

#[test]
fn a_silent_receiver_does_not_hold_up_the_end() {
    let receiver = FakeReceiver::answering(|| None);
    let terminal = Screen::with(top(&[&receiver.address()]), 80, 24);
    until("it is asked", || (!receiver.requests().is_empty()).then_some(()));
    terminal.press(b"q");
    terminal.assert_restored();
}
