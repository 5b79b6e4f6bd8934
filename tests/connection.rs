//! The connection and the replication commands against a real PostgreSQL.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};

use rustix::process::Signal;
use walring::core::lsn::{Lsn, Timeline};
use walring::edge::connection::Connection;
use walring::edge::conninfo::{Conninfo, Explicit};
use walring::edge::password::{PasswordPrompt, PromptMode};
use walring::edge::replication::{StartAnswer, StreamEnd};
use walring::error::{Error, Result};
use walring::ring::contract::Channel;

use common::Server;
use common::scratch::free_port;

const HBA: &str = "\
local all         postgres           trust
local replication all                trust
host  replication trusted 127.0.0.1/32 trust
host  replication ordinary 127.0.0.1/32 trust
host  replication plain   127.0.0.1/32 password
host  replication hashed  127.0.0.1/32 md5
host  replication proved  127.0.0.1/32 scram-sha-256
";

const ROLES: &str = "\
CREATE ROLE trusted LOGIN REPLICATION;
CREATE ROLE ordinary LOGIN;
CREATE ROLE plain LOGIN REPLICATION PASSWORD 'pass: word';
CREATE ROLE proved LOGIN REPLICATION PASSWORD 'pass: word';
SET password_encryption = 'md5';
CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'pass: word';
";

/// One server for all tests that run at the same time and do not harm it: its roles log in on TCP, each in its way.
fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(with_roles());
        *shared = Arc::downgrade(&server);
        server
    })
}

fn with_roles() -> Server {
    let server = Server::start();
    server.sql(ROLES);
    server.set_hba(HBA);
    server
}

fn tcp(server: &Server, settings: &str) -> String {
    format!("host=127.0.0.1 port={} {settings}", server.port())
}

fn socket(server: &Server, settings: &str) -> String {
    let directory = server.socket_directory().display();
    format!("host={directory} port={} {settings}", server.port())
}

fn resolve(dbname: &str) -> Result<Conninfo> {
    let explicit = Explicit {
        dbname: Some(dbname.to_owned().into()),
        program_name: "walring-test".to_owned(),
        ..Explicit::default()
    };
    Conninfo::resolve(&explicit, &|_| None)
}

async fn open(dbname: &str) -> Result<Connection> {
    let mut prompt = PasswordPrompt::new(PromptMode::Never);
    Connection::open(&resolve(dbname)?, &mut prompt).await
}

async fn refusal(dbname: &str) -> Error {
    match open(dbname).await {
        Ok(_) => panic!("connected by {dbname}"),
        Err(error) => error,
    }
}

#[test]
fn every_supported_way_to_authenticate_lets_us_in_by_tcp_and_socket() {
    let server = shared();
    let version = server.sql("SHOW server_version_num");
    tokio_uring::start(async {
        for settings in [
            tcp(&server, "user=trusted"),
            tcp(&server, "user=plain password='pass: word'"),
            tcp(&server, "user=hashed password='pass: word'"),
            tcp(
                &server,
                "user=proved password='pass: word' require_auth=scram-sha-256",
            ),
            tcp(
                &server,
                "user=trusted sslmode=prefer require_auth=none connect_timeout=10 keepalives_idle=5 tcp_user_timeout=9000",
            ),
            socket(&server, "user=trusted"),
            format!("postgres://proved:pass%3A%20word@127.0.0.1:{}", server.port()),
        ] {
            let mut connection = open(&settings).await.unwrap();
            assert_eq!(connection.server_version_num().to_string(), version);
            assert_eq!(connection.parameter("application_name"), Some("walring-test"));
            connection.identify_system().await.unwrap();
            connection.close().await;
        }
    });
}

#[test]
fn a_refused_login_says_why_in_the_words_of_libpq() {
    let server = shared();
    let place = format!(
        "connection to server at \"127.0.0.1\", port {} failed: ",
        server.port()
    );
    tokio_uring::start(async {
        for (settings, message, sqlstate) in [
            (
                "user=proved password=wrong",
                "FATAL:  password authentication failed for user \"proved\"",
                Some("28P01"),
            ),
            (
                "user=hashed password=wrong",
                "FATAL:  password authentication failed for user \"hashed\"",
                Some("28P01"),
            ),
            ("user=proved", "fe_sendauth: no password supplied", None),
            (
                "user=nobody",
                "FATAL:  no pg_hba.conf entry for replication connection from host \"127.0.0.1\", user \"nobody\", no encryption",
                Some("28000"),
            ),
            (
                "user=ordinary",
                "FATAL:  must be superuser or replication role to start walsender",
                Some("42501"),
            ),
            (
                "user=plain password=x require_auth=scram-sha-256",
                "authentication method requirement \"scram-sha-256\" failed: server requested a cleartext password",
                None,
            ),
            (
                "user=trusted require_auth=!none",
                "authentication method requirement \"!none\" failed: server did not complete authentication",
                None,
            ),
        ] {
            let error = refusal(&tcp(&server, settings)).await;
            assert_eq!(error.to_string(), format!("{place}{message}"));
            assert_eq!(error.sqlstate(), sqlstate);
        }
    });
}

#[test]
fn the_password_file_is_used_and_named_when_it_is_wrong() {
    let server = shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgpass");
    let entry =
        |role: &str, password: &str| format!("127.0.0.1:{}:replication:{role}:{password}\n", server.port());
    fs::write(&path, entry("proved", "pass\\: word") + &entry("hashed", "wrong")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    tokio_uring::start(async {
        let settings = |role: &str| tcp(&server, &format!("user={role} passfile={}", path.display()));
        open(&settings("proved")).await.unwrap();
        let error = refusal(&settings("hashed")).await;
        let detail = format!("password retrieved from file \"{}\"", path.display());
        assert_eq!(error.detail(), Some(detail.as_str()));
    });
}

#[test]
fn the_next_host_is_tried_only_where_that_can_help() {
    let server = shared();
    let closed = free_port();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    tokio_uring::start(async {
        let reachable = format!(
            "host=127.0.0.1,/nowhere,127.0.0.1,127.0.0.1 port={closed},1,{silent_port},{} connect_timeout=3 user=trusted",
            server.port()
        );
        open(&reachable).await.unwrap();

        let error = refusal(&format!(
            "host=localhost,/nowhere hostaddr=127.0.0.1, port={closed} user=trusted"
        ))
        .await;
        let expected = format!(
            "connection to server at \"127.0.0.1\", port {closed} failed: Connection refused\n\
             connection to server on socket \"/nowhere/.s.PGSQL.{closed}\" failed: No such file or directory"
        );
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().starts_with("Is the server running"));

        // The first server's no is final.
        let both = format!(
            "host=127.0.0.1,127.0.0.1 port={},{closed} user=ordinary",
            server.port()
        );
        let message = refusal(&both).await.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");

        let timeout = format!("host=127.0.0.1 port={silent_port} connect_timeout=1 user=trusted");
        assert!(
            refusal(&timeout)
                .await
                .to_string()
                .ends_with("failed: timeout expired")
        );
    });
}

#[test]
fn a_name_that_does_not_resolve_is_said_to_be_so() {
    tokio_uring::start(async {
        let error = refusal("host=walring.invalid user=x").await.to_string();
        let start = "could not translate host name \"walring.invalid\" to address: ";
        assert!(error.starts_with(start) && error.len() > start.len(), "{error}");
    });
}

#[test]
fn the_server_tells_what_it_is() {
    let server = shared();
    let identifier = server.sql("SELECT system_identifier FROM pg_control_system()");
    tokio_uring::start(async {
        let mut connection = open(&tcp(&server, "user=trusted")).await.unwrap();
        let identity = connection.identify_system().await.unwrap();
        assert_eq!(identity.system_identifier.to_string(), identifier);
        assert_eq!(identity.timeline, Timeline(1));
        assert!(identity.flushed > Lsn::INVALID);
        assert_eq!(connection.wal_segment_size().await.unwrap().bytes(), 1 << 20);
        assert_eq!(connection.data_directory_mode().await.unwrap(), 0o700);

        let error = connection
            .timeline_history(Timeline(7))
            .await
            .unwrap_err()
            .to_string();
        let start = "could not send replication command \"TIMELINE_HISTORY\": ERROR:  could not open file";
        assert!(error.starts_with(start), "{error}");
        // An error leaves the connection usable.
        assert_eq!(connection.identify_system().await.unwrap().timeline, Timeline(1));
    });
}

#[test]
fn a_slot_is_created_read_and_dropped() {
    let server = shared();
    tokio_uring::start(async {
        let mut connection = open(&tcp(&server, "user=trusted")).await.unwrap();
        let missing = connection.read_replication_slot("s1").await.unwrap_err();
        assert_eq!(missing.to_string(), "replication slot \"s1\" does not exist");

        connection.create_physical_slot("s1", false).await.unwrap();
        connection.create_physical_slot("s1", true).await.unwrap();
        let again = connection.create_physical_slot("s1", false).await.unwrap_err();
        assert_eq!(
            again.to_string(),
            "could not send replication command \"CREATE_REPLICATION_SLOT \"s1\" PHYSICAL\": ERROR:  replication slot \"s1\" already exists"
        );
        let slot = connection.read_replication_slot("s1").await.unwrap();
        assert_eq!((slot.restart_lsn, slot.restart_timeline), (None, None));

        server.sql("SELECT pg_create_physical_replication_slot('s2', true)");
        let slot = connection.read_replication_slot("s2").await.unwrap();
        assert!(slot.restart_lsn.is_some());
        assert_eq!(slot.restart_timeline, Some(Timeline(1)));

        assert!(connection.create_reserving_slot("s3").await.unwrap());
        assert!(!connection.create_reserving_slot("s3").await.unwrap());
        let slot = connection.read_replication_slot("s3").await.unwrap();
        assert!(slot.restart_lsn.is_some());

        for name in ["s1", "s2", "s3"] {
            connection.drop_slot(name).await.unwrap();
        }
        let gone = connection.drop_slot("s1").await.unwrap_err();
        assert_eq!(gone.sqlstate(), Some("42704"));
        // A server before 17 does not know doubled quotes, and takes them for a syntax error.
        let hostile = connection
            .create_physical_slot("x\" LOGICAL \"y", false)
            .await
            .unwrap_err();
        assert!(matches!(hostile.sqlstate(), Some("42601" | "42602")), "{hostile}");
    });
}

#[test]
fn a_stream_can_be_lent_out_stopped_and_started_again() {
    let server = shared();
    tokio_uring::start(async {
        for settings in [tcp(&server, "user=trusted"), socket(&server, "user=trusted")] {
            let tcp = settings.starts_with("host=127");
            let mut connection = open(&settings).await.unwrap();
            let flushed = connection.identify_system().await.unwrap().flushed;
            for _ in 0..2 {
                let answer = connection.start_replication(None, flushed, Timeline(1)).await;
                assert_eq!(answer.unwrap(), StartAnswer::Streaming);
                let mut stream = Stream::detached(&mut connection, tcp);
                stream.send(b"c\0\0\0\x04");
                while stream.receive().0 != b'c' {}
                stream.give_back(&mut connection);
                assert_eq!(connection.finish_streaming().await.unwrap(), StreamEnd::Stopped);
            }
            connection.identify_system().await.unwrap();

            let ahead = flushed.advanced_by(1 << 40);
            let answer = connection
                .start_replication(Some("missing"), ahead, Timeline(1))
                .await;
            assert_eq!(
                answer.unwrap_err().to_string(),
                "could not send replication command \"START_REPLICATION\": ERROR:  replication slot \"missing\" does not exist"
            );
        }
    });
}

#[test]
fn a_stream_follows_the_end_of_a_timeline_and_of_the_server() {
    let server = with_roles();
    server.restart_as_standby();
    server.promote();
    tokio_uring::start(async {
        let mut connection = open(&tcp(&server, "user=trusted")).await.unwrap();
        assert_eq!(connection.identify_system().await.unwrap().timeline, Timeline(2));
        let history = connection.timeline_history(Timeline(2)).await.unwrap();
        assert_eq!(history.file_name, "00000002.history");
        let on_disk = fs::read(server.data().join("pg_wal/00000002.history")).unwrap();
        assert_eq!(history.content, on_disk);

        let text = String::from_utf8(on_disk).unwrap();
        let switch: Lsn = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        let ended = connection
            .start_replication(None, switch, Timeline(1))
            .await
            .unwrap();
        let next = Timeline(2);
        assert_eq!(ended, StartAnswer::EndOfTimeline { next, switch });

        let segment = Lsn(switch.0 >> 20 << 20);
        let answer = connection
            .start_replication(None, segment, Timeline(1))
            .await
            .unwrap();
        assert_eq!(answer, StartAnswer::Streaming);
        let mut stream = Stream::detached(&mut connection, true);
        while stream.receive().0 != b'c' {}
        stream.send(b"c\0\0\0\x04");
        stream.give_back(&mut connection);
        let end = connection.finish_streaming().await.unwrap();
        assert_eq!(end, StreamEnd::EndOfTimeline { next, switch });

        let answer = connection.start_replication(None, segment, next).await.unwrap();
        assert_eq!(answer, StartAnswer::Streaming);
        let mut stream = Stream::detached(&mut connection, true);
        // Before its first message a walsender may take the shutdown for an order to die at once.
        stream.peek();
        server.signal(Signal::INT);
        stream.confirm_until_completion();
        stream.give_back(&mut connection);
        assert_eq!(connection.finish_streaming().await.unwrap(), StreamEnd::Shutdown);
    });
}

#[test]
fn an_error_that_ends_a_stream_is_reported() {
    let server = with_roles();
    tokio_uring::start(async {
        let mut connection = open(&tcp(&server, "user=trusted")).await.unwrap();
        let flushed = connection.identify_system().await.unwrap().flushed;
        connection
            .start_replication(None, flushed, Timeline(1))
            .await
            .unwrap();
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
        let error = connection.finish_streaming().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "unexpected termination of replication stream: FATAL:  terminating connection due to administrator command"
        );
        assert_eq!(error.sqlstate(), Some("57P01"));
    });
}

/// A lent-out socket, read and written in blocking calls as the ring would.
struct Stream {
    socket: Socket,
    unread: bytes::BytesMut,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn detached(connection: &mut Connection, tcp: bool) -> Stream {
        let channel = connection.detach().unwrap();
        let socket = if tcp {
            Socket::Tcp(channel.socket.into())
        } else {
            Socket::Unix(channel.socket.into())
        };
        Stream {
            socket,
            unread: channel.unread,
        }
    }

    fn give_back(self, connection: &mut Connection) {
        let socket: OwnedFd = match self.socket {
            Socket::Tcp(stream) => stream.into(),
            Socket::Unix(stream) => stream.into(),
        };
        let unread = self.unread;
        let channel = Channel {
            socket,
            tls: None,
            unread,
        };
        connection.attach(channel).unwrap();
    }

    fn send(&mut self, bytes: &[u8]) {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Socket::Unix(stream) => stream.write_all(bytes).unwrap(),
        }
    }

    /// Reads until a whole message is there; its tag and length.
    fn peek(&mut self) -> (u8, usize) {
        loop {
            if let Some(length) = self.unread.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().unwrap()) as usize + 1;
                if self.unread.len() >= length {
                    return (self.unread[0], length);
                }
            }
            let mut buffer = [0; 4096];
            let count = match &mut self.socket {
                Socket::Tcp(stream) => stream.read(&mut buffer).unwrap(),
                Socket::Unix(stream) => stream.read(&mut buffer).unwrap(),
            };
            assert_ne!(count, 0, "the server hung up");
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    fn receive(&mut self) -> (u8, bytes::BytesMut) {
        let (tag, length) = self.peek();
        (tag, self.unread.split_to(length))
    }

    /// Reports everything as flushed, without which the server would wait for us, up to the
    /// CommandComplete that ends the stream.
    fn confirm_until_completion(&mut self) {
        let mut received = 0u64;
        while self.peek().0 != b'C' {
            let (tag, message) = self.receive();
            assert_eq!(tag, b'd', "{}", String::from_utf8_lossy(&message));
            let number = |at: usize| u64::from_be_bytes(message[at..at + 8].try_into().unwrap());
            if message[5] == b'w' {
                received = number(6) + (message.len() - 30) as u64;
            }
            let mut status = b"d\0\0\0\x26r".to_vec();
            for position in [received, received, received, 0] {
                status.extend(position.to_be_bytes());
            }
            status.push(0);
            self.send(&status);
        }
    }
}
