//! Links that are slow, late, cut, stalled or half open: the receiver notices, comes back, and nothing is lost or wrong.
mod common;

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use common::archive::{common_prefix, is_zero};
use common::receiver::wait_for_streaming;
use common::relay::{DIRECTIONS, Direction, Relay, Weather};
use common::{Archive, Lsn, Process, Server, ServerOptions, program, wait};

/// Receives through a relay.
fn through(relay: &Relay, archive: &Archive, arguments: &[&str]) -> Process {
    Process::spawn(aimed_at(relay.port(), archive, arguments))
}

/// A receiver of whatever listens on a port of this machine.
fn aimed_at(port: u16, archive: &Archive, arguments: &[&str]) -> Command {
    let mut command = program::receive();
    command.arg("-D").arg(archive.path());
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]);
    command.args(["-w", "--synchronous"]).args(arguments);
    command.env("PGAPPNAME", common::server::RECEIVER_NAME);
    command
}

/// Asserts that what is written now arrives, too, and that nothing is wrong or missing; the process is the same as at
/// the beginning.
#[track_caller]
fn assert_goes_on(server: &Server, archive: &Archive, receiver: Process) {
    let end = server.write_wal(100);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(server, 1, end);
}

// ---- slow, and yet alive ----

#[test]
fn a_link_that_is_late_loses_nothing_and_is_kept() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::plain(server.port());
    for direction in DIRECTIONS {
        let delay = Duration::from_millis(30);
        relay.set(
            direction,
            Weather {
                delay,
                ..Weather::FAIR
            },
        );
    }
    let receiver = through(&relay, &archive, &[]);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(1500));
    assert_goes_on(&server, &archive, receiver);
    assert_eq!(relay.connections(), 1);
}

#[test]
fn a_message_that_takes_longer_than_the_receive_timeout_is_waited_for_as_long_as_it_comes() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::plain(server.port());
    let receiver = through(&relay, &archive, &["--receive-timeout=5"]);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(1));
    // A full message of 128 kB takes eight seconds.
    let slow = Weather {
        bytes_per_second: 16 << 10,
        piece: 1000,
        ..Weather::FAIR
    };
    relay.set(Direction::Down, slow);
    server.wait_flushed(server.write_wal(300));
    relay.set(Direction::Down, Weather::FAIR);
    assert_goes_on(&server, &archive, receiver);
    assert_eq!(relay.connections(), 1, "a link that carries is not given up");
}

#[test]
fn a_link_that_delivers_every_byte_alone_loses_nothing() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::plain(server.port());
    for direction in DIRECTIONS {
        let piece = 1;
        relay.set(
            direction,
            Weather {
                piece,
                ..Weather::FAIR
            },
        );
    }
    let receiver = through(&relay, &archive, &[]);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(100));
    assert_goes_on(&server, &archive, receiver);
    assert_eq!(relay.connections(), 1);
}

#[test]
fn a_stall_shorter_than_the_receive_timeout_is_sat_out() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::plain(server.port());
    let receiver = through(&relay, &archive, &["--receive-timeout=60"]);
    wait_for_streaming(&server);
    server.wait_flushed(server.write_wal(10));
    let stalled = true;
    for direction in DIRECTIONS {
        relay.set(
            direction,
            Weather {
                stalled,
                ..Weather::FAIR
            },
        );
        server.write_wal(1200);
        relay.set(direction, Weather::FAIR);
        server.wait_flushed(server.write_wal(1));
    }
    assert_goes_on(&server, &archive, receiver);
    assert_eq!(relay.connections(), 1);
}

// ---- cut ----

#[test]
fn a_connection_cut_or_reset_in_either_direction_is_replaced_without_loss() {
    for direction in DIRECTIONS {
        for reset in [false, true] {
            let (server, archive) = (Server::start(), Archive::new());
            let relay = Relay::plain(server.port());
            let cut_behind = match direction {
                Direction::Down => 1_345_678,
                Direction::Up => 800,
            };
            let receiver = through(&relay, &archive, &[]);
            wait_for_streaming(&server);
            relay.set(
                direction,
                Weather {
                    cut_behind,
                    reset,
                    ..Weather::FAIR
                },
            );
            let mut end = server.write_wal(1);
            while relay.connections() < 3 {
                end = server.write_wal(200);
                server.wait_flushed(end);
            }
            relay.set(direction, Weather::FAIR);
            server.wait_flushed(end);
            assert_goes_on(&server, &archive, receiver);
        }
    }
}

// ---- half open ----

#[test]
fn a_link_that_carries_nothing_down_is_left_after_the_receive_timeout() {
    let (server, archive) = (Server::start(), Archive::new());
    let relay = Relay::plain(server.port());
    let receiver = through(&relay, &archive, &["--receive-timeout=2"]);
    server.wait_flushed(server.write_wal(10));
    relay.swallow(Direction::Down);
    receiver.wait_for_line("receive timeout of 2 seconds");
    assert_goes_on(&server, &archive, receiver);
}

#[test]
fn a_link_that_carries_nothing_up_is_left_when_the_server_leaves() {
    let server = ServerOptions::default().config("wal_sender_timeout = 2s").start();
    let archive = Archive::new();
    let relay = Relay::plain(server.port());
    let receiver = through(&relay, &archive, &["--receive-timeout=60"]);
    server.wait_flushed(server.write_wal(10));
    relay.swallow(Direction::Up);
    receiver.wait_for_line("disconnected");
    assert_goes_on(&server, &archive, receiver);
}

#[test]
fn a_server_that_falls_silent_while_it_lets_us_in_is_left() {
    for arguments in [
        &["--receive-timeout=2"][..],
        &["--receive-timeout=60", "-d", "connect_timeout=2"],
    ] {
        let (server, archive) = (Server::start(), Archive::new());
        let relay = Relay::silent_from(server.port(), "application_name");
        let receiver = through(&relay, &archive, arguments);
        receiver.wait_for_line("timeout expired");
        assert_goes_on(&server, &archive, receiver);
    }
}

#[test]
fn a_host_that_answers_no_packet_is_given_up() {
    // Who waits in a full queue is not told so: the kernel drops the packet.
    let full = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    rustix::net::listen(&full, 0).expect("shorten the queue");
    let address = full.local_addr().expect("a bound port");
    let limit = Duration::from_millis(200);
    let queued: Vec<_> = (0..3)
        .map(|_| TcpStream::connect_timeout(&address, limit))
        .collect();
    assert!(queued.iter().any(Result::is_err), "the queue is not full");
    for (option, words) in [
        ("connect_timeout=2", "timeout expired"),
        ("tcp_user_timeout=2000", "Connection timed out"),
    ] {
        let archive = Archive::new();
        let arguments = ["-n", "-d", option];
        let exit = Process::spawn(aimed_at(address.port(), &archive, &arguments)).finish();
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert!(exit.has_line_with(&["error: ", words]), "{exit:#?}");
    }
}

#[test]
fn signals_end_a_stream_whose_link_is_half_open() {
    for direction in DIRECTIONS {
        let (server, archive) = (Server::start(), Archive::new());
        let relay = Relay::plain(server.port());
        let receiver = through(&relay, &archive, &["--receive-timeout=1000"]);
        let end = server.write_wal(10);
        server.wait_flushed(end);
        relay.swallow(direction);
        receiver.end_by(Signal::TERM).assert_success();
        archive.assert_holds(&server, 1, end);
    }
}

// ---- damaged ----

#[test]
fn a_bit_flipped_before_the_stream_begins_brings_nothing_wrong() {
    let server = Server::start();
    server.write_wal(100);
    let end = server.flush_lsn();
    server.write_wal(10);
    let relay = Relay::plain(server.port());
    let mut codes = [0; 2];
    // Up to the first WAL: what that holds of a record that began before it, nobody can check.
    for at in (0..760).step_by(17) {
        let flip_behind = Some(at);
        relay.set(
            Direction::Down,
            Weather {
                flip_behind,
                ..Weather::FAIR
            },
        );
        let archive = Archive::new();
        let end = end.to_string();
        let exit = through(&relay, &archive, &["-n", "--receive-timeout=2", "--endpos", &end]).finish();
        assert!(matches!(exit.code, Some(0 | 1)), "byte {at}: {exit:#?}");
        assert!(!exit.has_line_with(&["panicked"]), "byte {at}: {exit:#?}");
        codes[usize::from(exit.code == Some(1))] += 1;
        if !exit.has_line_with(&["received WAL is damaged"]) {
            assert_only_bytes_of(&server, &archive, at);
        }
    }
    assert!(codes.iter().all(|&count| count > 5), "{codes:?}");
}

/// Asserts that the files hold what the server's do, and zeros behind it.
#[track_caller]
fn assert_only_bytes_of(server: &Server, archive: &Archive, at: u64) {
    for name in archive.names() {
        let (ours, theirs) = (
            archive.read(&name),
            server.wal_file(name.trim_end_matches(".partial")),
        );
        let same = common_prefix(&ours, &theirs);
        assert!(is_zero(&ours[same..]), "byte {at}: {name} is wrong at {same}");
    }
}

// ---- everything ----

#[test]
fn a_link_on_which_everything_happens_loses_nothing() {
    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (seed, seconds) = (number("SEED", 1), number("FAULT_SECONDS", 10));
    println!("SEED={seed} FAULT_SECONDS={seconds}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let server = ServerOptions::default().config("wal_sender_timeout = 3s").start();
    let archive = Archive::new();
    let relay = Relay::plain(server.port());
    let receiver = through(&relay, &archive, &["--receive-timeout=2"]);
    wait_for_streaming(&server);
    let (began, duration) = (Instant::now(), Duration::from_secs(seconds));
    while began.elapsed() < duration {
        for direction in DIRECTIONS {
            relay.set(direction, any_weather(&mut rng));
        }
        if rng.u8(0..8) == 0 {
            relay.swallow(DIRECTIONS[rng.usize(0..2)]);
        }
        server.write_wal([1, 10, 300, 2000][rng.usize(0..4)]);
        std::thread::sleep(
            Duration::from_millis(rng.u64(0..600)).min(duration - began.elapsed().min(duration)),
        );
    }
    for direction in DIRECTIONS {
        relay.set(direction, Weather::FAIR);
    }
    let end = server.write_wal(100);
    let flushed = || {
        server
            .receiver_column("flush_lsn")?
            .parse::<Lsn>()
            .ok()
            .filter(|lsn| *lsn >= end)
    };
    wait::within(Duration::from_secs(120), flushed).expect("all of it is acknowledged in the end");
    receiver.stop();
    archive.assert_holds(&server, 1, end);
    archive.assert_readable(&server);
    assert!(relay.connections() > 1, "nothing happened");
}

fn any_weather(rng: &mut fastrand::Rng) -> Weather {
    let fair = Weather::FAIR;
    match rng.u8(0..8) {
        0 => Weather {
            delay: Duration::from_millis(rng.u64(1..100)),
            ..fair
        },
        1 => Weather {
            bytes_per_second: rng.u64(1000..1_000_000),
            ..fair
        },
        2 => Weather { piece: 1, ..fair },
        3 => Weather {
            piece: rng.usize(2..5000),
            ..fair
        },
        4 | 5 => Weather {
            cut_behind: rng.u64(1..2_000_000),
            reset: rng.bool(),
            ..fair
        },
        6 => Weather {
            stalled: true,
            ..fair
        },
        _ => fair,
    }
}
