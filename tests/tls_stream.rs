//! WAL through TLS: byte for byte what comes without it, in every version and cipher, however records are cut, through
//! new keys, promotions and broken connections.
mod common;

use common::archive::assert_same;
use common::receiver::{
    aim_at, assert_follows_promotion, make_synchronous, wait_for_nobody, wait_for_streaming, walring_at,
};
use common::relay::{DIRECTIONS, Direction, Relay, Weather};
use common::server::RECEIVER_NAME;
use common::terminator::{Manner, terminate};
use common::tls::{conninfo, server_with_tls, start, with_tls};
use common::wait::until;
use common::{Archive, Http, Installation, Lsn, Process, Server, ServerOptions};

const SYNCHRONOUS: [&str; 2] = ["--synchronous", "--no-password"];

/// walring on its way through TLS to a port of this machine.
fn walring_to(port: u16, archive: &Archive, settings: &str) -> Process {
    walring_at(&through_tls(port, settings), archive, &SYNCHRONOUS)
}

fn through_tls(port: u16, settings: &str) -> String {
    format!("{} {settings}", conninfo(port))
}

/// The server's view of the receiver's TLS: its version and cipher.
fn tls_of_receiver(server: &Server) -> String {
    server.sql(&format!(
        "select version, cipher from pg_stat_ssl join pg_stat_replication using (pid) \
         where application_name = '{RECEIVER_NAME}' and ssl"
    ))
}

/// Bulk, small commits, an end of a segment; up to where the receiver has everything.
fn load(server: &Server) -> Lsn {
    server.write_wal(3000);
    for _ in 0..20 {
        server.write_wal(1);
    }
    server.switch_wal();
    let end = server.write_wal(100);
    server.wait_flushed(end);
    end
}

#[test]
fn the_files_are_those_of_pg_receivewal() {
    let installations = Installation::version(13)
        .into_iter()
        .chain([Installation::standard()]);
    for installation in installations {
        let server = start(with_tls(ServerOptions::default().version(&installation)));
        let (ours, theirs) = (Archive::new(), Archive::new());
        let mut reference = Installation::standard().command("pg_receivewal");
        reference.arg("--status-interval=1");
        let aim = through_tls(server.port(), "application_name=reference");
        let reference = Process::spawn(aim_at(reference, &aim, theirs.path(), &SYNCHRONOUS));
        let receiver = walring_to(server.port(), &ours, "");
        wait_for_streaming(&server);
        assert!(
            tls_of_receiver(&server).starts_with("TLSv1.3|"),
            "{}",
            tls_of_receiver(&server)
        );
        let end = load(&server);
        let query = format!(
            "select true from pg_stat_replication where application_name = 'reference' and flush_lsn >= '{end}'"
        );
        until("pg_receivewal has everything", || {
            (server.sql(&query) == "t").then_some(())
        });
        receiver.stop();
        reference.stop();
        ours.assert_holds(&server, 1, end);
        assert_eq!(ours.names(), theirs.names());
        for name in ours.segments() {
            assert_same(&name, &ours.read(&name), &theirs.read(&name));
        }
    }
}

#[test]
fn a_newer_server_is_received_too() {
    let Some(installation) = Installation::version(17) else {
        return;
    };
    let server = start(with_tls(ServerOptions::default().version(&installation)));
    for settings in ["", "sslnegotiation=direct", "ssl_max_protocol_version=TLSv1.2"] {
        let archive = Archive::new();
        let receiver = walring_to(server.port(), &archive, settings);
        wait_for_streaming(&server);
        let end = load(&server);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        wait_for_nobody(&server);
    }
}

#[test]
fn every_version_and_cipher_carries_it() {
    let server = server_with_tls();
    let ciphers = [
        ("server-rsa", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("server-rsa", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("server-rsa", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("server-localhost", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("server-localhost", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("server-localhost", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ];
    for (certificate, cipher) in ciphers {
        server.append_config(&format!("ssl_ciphers = '{cipher}'\n"));
        common::tls::present(&server, certificate);
        let archive = Archive::new();
        let receiver = walring_to(server.port(), &archive, "ssl_max_protocol_version=TLSv1.2");
        wait_for_streaming(&server);
        assert_eq!(tls_of_receiver(&server), format!("TLSv1.2|{cipher}"));
        let end = load(&server);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        wait_for_nobody(&server);
    }
}

#[test]
fn every_cipher_of_the_newest_version_carries_it_in_records_of_every_size() {
    let server = server_with_tls();
    for (version, suites) in [
        (
            &rustls::version::TLS13,
            ["TLS13_AES_256", "TLS13_AES_128", "TLS13_CHACHA20"],
        ),
        (
            &rustls::version::TLS12,
            [
                "TLS_ECDHE_ECDSA_WITH_AES_256",
                "TLS_ECDHE_ECDSA_WITH_AES_128",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20",
            ],
        ),
    ] {
        for (suite, record) in suites.into_iter().zip([None, Some(100), Some(4001)]) {
            let manner = Manner {
                version,
                suite,
                record,
                ..Manner::default()
            };
            received_through(&server, manner, "");
        }
    }
}

/// Everything arrives by way of a front of this manner.
fn received_through(server: &Server, manner: Manner, settings: &str) {
    let archive = Archive::new();
    let port = terminate(server.port(), manner);
    let receiver = walring_to(port, &archive, settings);
    wait_for_streaming(server);
    let end = load(server);
    receiver.stop();
    archive.assert_holds(server, 1, end);
    wait_for_nobody(server);
}

#[test]
fn new_keys_and_tickets_are_no_news() {
    let server = server_with_tls();
    for (rekeys_behind, tickets) in [(200_000, 0), (1 << 20, 4), (u64::MAX, 2)] {
        let manner = Manner {
            rekeys_behind,
            tickets,
            ..Manner::default()
        };
        received_through(&server, manner, "");
    }
}

#[test]
fn tls_at_once_carries_it_too() {
    let server = server_with_tls();
    received_through(&server, Manner::default(), "sslnegotiation=direct");
}

#[test]
fn bytes_that_come_one_by_one_are_the_same() {
    let server = server_with_tls();
    for (version, piece) in [("TLSv1.2", 1), ("TLSv1.3", 1), ("TLSv1.3", 3)] {
        let relay = Relay::plain(server.port());
        for direction in DIRECTIONS {
            relay.set(
                direction,
                Weather {
                    piece,
                    ..Weather::FAIR
                },
            );
        }
        let archive = Archive::new();
        let receiver = walring_to(
            relay.port(),
            &archive,
            &format!("ssl_max_protocol_version={version}"),
        );
        wait_for_streaming(&server);
        server.write_wal(20);
        let end = server.write_wal(20);
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        wait_for_nobody(&server);
    }
}

#[test]
fn a_connection_that_is_cut_is_made_again_and_nothing_is_missing() {
    let server = server_with_tls();
    // In the handshake, in the login, within records, at odd places.
    for cut_behind in [1, 100, 1500, 3000, 70_000, 300_001, 1_000_003] {
        let relay = Relay::to(server.port(), 8192, cut_behind);
        let archive = Archive::new();
        let receiver = walring_to(relay.port(), &archive, "");
        until("it came back", || {
            (relay.connections() >= 3 || cut_behind > 3000).then_some(())
        });
        let end = server.write_wal(500);
        relay.set(common::relay::Direction::Down, Weather::FAIR);
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        wait_for_nobody(&server);
    }
}

#[test]
fn a_start_within_a_segment_goes_on() {
    let (server, archive) = (server_with_tls(), Archive::new());
    for _ in 0..4 {
        let receiver = walring_to(server.port(), &archive, "");
        let end = server.write_wal(300);
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        wait_for_nobody(&server);
    }
}

#[test]
fn a_promotion_is_followed_on_the_same_connection() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (server, archive) = (server_with_tls(), Archive::new());
        assert_follows_promotion(&server, &archive, || {
            let settings = format!("ssl_max_protocol_version={version}");
            walring_to(server.port(), &archive, &settings)
        });
    }
}

#[test]
fn commits_whose_records_come_in_pieces_keep_the_connection() {
    let (server, archive) = (server_with_tls(), Archive::new());
    let relay = Relay::plain(server.port());
    relay.set(
        Direction::Down,
        Weather {
            piece: 1400,
            bytes_per_second: 4_000_000,
            ..Weather::FAIR
        },
    );
    let receiver = walring_to(relay.port(), &archive, "");
    make_synchronous(&server);
    server.sql("create table t (text text)");
    // Quick one after the other, so that the next is waited for in place where the disk is quick; each is a record of
    // several pieces.
    server.sql(
        "do $$ begin for i in 1..300 loop \
         insert into t select string_agg(md5(i::text || j::text), '') from generate_series(1, 100) j; commit; \
         end loop; end $$",
    );
    let end = server.flush_lsn();
    assert_eq!(relay.connections(), 1, "the connection was lost");
    receiver.kill();
    archive.assert_holds(&server, 1, end);
}

/// A read that waits for much is withdrawn after a while, and what came before it is made durable then.
#[test]
fn a_backlog_that_comes_slowly_is_made_durable_no_more_often_through_tls() {
    let server = server_with_tls();
    let start = server.flush_lsn().segment_start(server.segment_bytes());
    let end = server.write_wal(10_000);
    let links = ["disable", "require"].map(|sslmode| {
        let (relay, archive) = (Relay::plain(server.port()), Archive::new());
        relay.set(
            Direction::Down,
            Weather {
                bytes_per_second: 1_000_000,
                ..Weather::FAIR
            },
        );
        let way = through_tls(
            relay.port(),
            &format!("sslmode={sslmode} application_name={sslmode}"),
        );
        let start = format!("--start-lsn={start}");
        let receiver = walring_at(&way, &archive, &["--synchronous", "--listen=127.0.0.1:0", &start]);
        (Http::of(&receiver), receiver, relay, archive)
    });
    let query = format!("select count(*) from pg_stat_replication where flush_lsn >= '{end}'");
    until("both have everything", || {
        (server.sql(&query) == "2").then_some(())
    });
    let [plain, encrypted] = links.map(|(http, receiver, _relay, archive)| {
        let flushes = flushes(&http);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
        flushes
    });
    assert!(
        encrypted <= plain * 2.0,
        "made durable {plain} times in plain and {encrypted} times through TLS"
    );
}

/// How often something was made durable.
fn flushes(http: &Http) -> f64 {
    let text = http.get("/metrics").body;
    let counts = text
        .lines()
        .filter(|line| line.starts_with("walring_flush_seconds_count"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum()
}

#[test]
fn commits_return_through_tls() {
    let (server, archive) = (server_with_tls(), Archive::new());
    let receiver = walring_to(server.port(), &archive, "");
    make_synchronous(&server);
    server.sql("create table t (i int)");
    for i in 0..50 {
        server.sql(&format!("insert into t values ({i})"));
    }
    let end = server.flush_lsn();
    receiver.kill();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn the_end_of_the_server_is_the_end_of_the_stream_with_everything() {
    let (server, archive) = (server_with_tls(), Archive::new());
    let receiver = walring_to(server.port(), &archive, "");
    wait_for_streaming(&server);
    let end = server.write_wal(500);
    server.stop_fast();
    server.start_again();
    wait_for_streaming(&server);
    let later = server.write_wal(500);
    server.wait_flushed(later);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
    archive.assert_holds(&server, 1, later);
}
