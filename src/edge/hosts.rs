//! The host list: where a server may be found, in the order to try.
//!
//! An address or a port that cannot be one is refused at once. libpq says so only when its turn comes, which is on the day
//! of the failover.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use dns_lookup::AddrInfoHints;

use crate::edge::settings::{Settings, parse_integer};
use crate::edge::socket::Address;
use crate::error::{Error, Result};

/// PostgreSQL's compiled-in port.
const DEFAULT_PORT: u16 = 5432;

/// Where packagers put the server's socket, and where an unchanged build does.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What fits into `sockaddr_un` with a zero behind it, in bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// One place where a server may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The host as the operator named it; what messages and the password file call it.
    pub name: String,
    /// Whether that is a name of the operator's: who gives an address only (`hostaddr`) names no host to verify.
    pub is_named: bool,
    /// How to get there.
    pub target: Target,
    /// The TCP port, or the number in the name of the socket.
    pub port: u16,
}

/// How to reach a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Unix socket in the directory `Host::name`; with an `@` in front, in the abstract namespace.
    Socket,
    /// A name to be resolved, perhaps to several addresses.
    Name,
    /// An address that no name server is asked about, as it was given (`hostaddr`).
    Address(String),
}

impl Host {
    /// What this host is called in a password file. The default directory is `localhost` there, even where an address
    /// says how to get to the host.
    pub fn password_file_name(&self) -> &str {
        if self.name == default_socket_directory() {
            "localhost"
        } else {
            &self.name
        }
    }

    /// The path of the socket, for a host that is one. Fails if the kernel does not take it.
    pub fn socket_path(&self) -> Result<String> {
        let path = format!("{}/.s.PGSQL.{}", self.name, self.port);
        match path.len() > LONGEST_SOCKET_PATH {
            false => Ok(path),
            true => Err(Error::connection(format!(
                "Unix-domain socket path \"{path}\" is too long (maximum {LONGEST_SOCKET_PATH} bytes)"
            ))),
        }
    }
}

/// Pairs up the comma lists `host`, `hostaddr` and `port` by libpq's rules, in its words.
pub fn resolve(settings: &Settings) -> Result<Vec<Host>> {
    let list = |keyword| {
        settings
            .value(keyword)
            .map(|text| text.split(',').collect::<Vec<_>>())
    };
    let (names, addresses) = (list("host"), list("hostaddr"));
    if let (Some(names), Some(addresses)) = (&names, &addresses)
        && names.len() != addresses.len()
    {
        return Err(Error::usage(format!(
            "could not match {} host names to {} hostaddr values",
            names.len(),
            addresses.len()
        )));
    }
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    let ports = list("port").unwrap_or(vec![""]);
    if ports.len() != 1 && ports.len() != count {
        return Err(Error::usage(format!(
            "could not match {} port numbers to {count} hosts",
            ports.len()
        )));
    }
    let element =
        |list: &Option<Vec<&str>>, at: usize| list.as_ref().map_or(String::new(), |l| l[at].to_owned());
    (0..count)
        .map(|at| {
            let port = parse_port(ports[if ports.len() == 1 { 0 } else { at }])?;
            resolve_one(element(&names, at), &element(&addresses, at), port)
        })
        .collect()
}

/// The address that a text stands for without a name server, as the C library reads it: also short (`127.1`), and with a
/// zone by name (`fe80::1%eth0`), which counts once there is such an interface.
///
/// Fails in the words of libpq.
pub fn numeric_address(text: &str, port: u16) -> Result<SocketAddr> {
    let hints = AddrInfoHints {
        flags: libc::AI_NUMERICHOST,
        socktype: libc::SOCK_STREAM,
        ..AddrInfoHints::default()
    };
    let found = dns_lookup::getaddrinfo(Some(text), None, Some(hints)).ok();
    let mut found = found.into_iter().flatten().filter_map(|info| info.ok());
    let Some(info) = found.next() else {
        return Err(Error::connection(format!(
            "could not parse network address \"{text}\": Name or service not known"
        )));
    };
    let mut address = info.sockaddr;
    address.set_port(port);
    Ok(address)
}

/// The text that stands for an address.
pub fn in_numbers(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        other => other.ip().to_string(),
    }
}

/// Fails unless the text is an address, or may become one: an interface may be missing still.
fn check_address(text: &str) -> Result<()> {
    let Err(error) = numeric_address(text, 0) else {
        return Ok(());
    };
    let zoned = text.split_once('%').filter(|(_, zone)| !zone.is_empty());
    let ip = zoned.and_then(|(ip, _)| ip.parse::<Ipv6Addr>().ok());
    match ip.is_some_and(|ip| ip.is_unicast_link_local()) {
        true => Ok(()),
        false => Err(Error::usage(error.to_string())),
    }
}

/// Moves a host behind the others: it has not what is stored, and one of those may have it.
pub fn put_last(hosts: &mut [Host], host: &Host) {
    if let Some(at) = hosts.iter().position(|other| other == host) {
        hosts[at..].rotate_left(1);
    }
}

/// The addresses at which a server was found without what is stored; where a host has several, another one of them may
/// lead to a server that has it.
#[derive(Debug, Clone, Default)]
pub struct Lacking(Vec<SocketAddr>);

impl Lacking {
    /// The server at this address has not what is stored. It was the last to say so.
    pub fn note(&mut self, address: SocketAddr) {
        self.0.retain(|other| *other != address);
        self.0.push(address);
    }

    /// Moves such addresses behind the others, the last of them to the end.
    pub fn put_last(&self, addresses: &mut [Address]) {
        addresses.sort_by_key(|address| match address {
            Address::Tcp(address) => self.0.iter().position(|other| other == address),
            Address::Unix(_) => None,
        });
    }
}

/// Whether `load_balance_hosts` asks for a random order; fails with libpq's message for a value that it does not know.
pub fn load_balance(settings: &Settings) -> Result<bool> {
    match settings.given("load_balance_hosts") {
        None | Some("disable") => Ok(false),
        Some("random") => Ok(true),
        Some(other) => Err(Error::usage(format!(
            "invalid load_balance_hosts value: \"{other}\""
        ))),
    }
}

fn resolve_one(name: String, address: &str, port: u16) -> Result<Host> {
    let is_named = !name.is_empty();
    let (name, target) = if !address.is_empty() {
        check_address(address)?;
        let name = if name.is_empty() { address.to_owned() } else { name };
        (name, Target::Address(address.to_owned()))
    } else if name.is_empty() {
        (default_socket_directory().to_owned(), Target::Socket)
    } else if name.starts_with(['/', '@']) {
        (name, Target::Socket)
    } else {
        (name, Target::Name)
    };
    Ok(Host {
        name,
        is_named,
        target,
        port,
    })
}

fn default_socket_directory() -> &'static str {
    let [packaged, plain] = SOCKET_DIRECTORIES;
    if Path::new(packaged).exists() {
        packaged
    } else {
        plain
    }
}

fn parse_port(text: &str) -> Result<u16> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    u16::try_from(parse_integer("port", text)?)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::usage(format!("invalid port number: \"{text}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(pairs: &[(&str, &str)]) -> String {
        let mut settings = Settings::default();
        for (keyword, value) in pairs {
            settings.set(keyword, value).unwrap();
        }
        let show = |host: &Host| match &host.target {
            Target::Socket => format!("socket {}", host.socket_path().unwrap()),
            Target::Name => format!("name {}:{}", host.name, host.port),
            Target::Address(text) => format!("{}={text}:{}", host.name, host.port),
        };
        match resolve(&settings) {
            Ok(hosts) => hosts.iter().map(show).collect::<Vec<_>>().join(", "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_lists_are_paired_up() {
        let default = format!("socket {}/.s.PGSQL.5432", default_socket_directory());
        assert_eq!(hosts(&[]), default);
        assert_eq!(hosts(&[("host", "a,")]), format!("name a:5432, {default}"));
        assert_eq!(hosts(&[("hostaddr", ",::1")]), format!("{default}, ::1=::1:5432"));
        for (pairs, expected) in [
            (vec![("host", "a")], "name a:5432"),
            (vec![("host", "/s"), ("port", "7")], "socket /s/.s.PGSQL.7"),
            (vec![("host", "@s")], "socket @s/.s.PGSQL.5432"),
            (vec![("host", "a,b"), ("port", "7")], "name a:7, name b:7"),
            (vec![("host", "a,b"), ("port", "7,")], "name a:7, name b:5432"),
            (vec![("host", "a,b"), ("port", ",7")], "name a:5432, name b:7"),
            (
                vec![("hostaddr", "::1,127.0.0.1")],
                "::1=::1:5432, 127.0.0.1=127.0.0.1:5432",
            ),
            (
                vec![("host", "a,b"), ("hostaddr", "10.0.0.1,")],
                "a=10.0.0.1:5432, name b:5432",
            ),
            (
                vec![("host", ",b"), ("hostaddr", "10.0.0.1,")],
                "10.0.0.1=10.0.0.1:5432, name b:5432",
            ),
            (
                vec![("host", "a,b"), ("port", "1,2,3")],
                "could not match 3 port numbers to 2 hosts",
            ),
            (
                vec![("host", "a,b"), ("hostaddr", "::1")],
                "could not match 2 host names to 1 hostaddr values",
            ),
            (
                vec![("hostaddr", "localhost")],
                "could not parse network address \"localhost\": Name or service not known",
            ),
            (vec![("port", "70000")], "invalid port number: \"70000\""),
            (vec![("port", "0")], "invalid port number: \"0\""),
            (vec![("port", "-1")], "invalid port number: \"-1\""),
            (
                vec![("port", "abc")],
                "invalid integer value \"abc\" for connection option \"port\"",
            ),
        ] {
            assert_eq!(hosts(&pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn an_address_is_read_as_the_c_library_reads_it() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.0.0.1", "127.0.0.1"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("fe80::1%1", "fe80::1%1"),
            ("fe80::1%lo", "fe80::1%1"),
        ] {
            let address = numeric_address(text, 7).unwrap();
            assert_eq!((in_numbers(&address).as_str(), address.port()), (expected, 7));
        }
        assert!(numeric_address("fe80::1%gone", 7).is_err());
        assert!(check_address("fe80::1%gone").is_ok(), "it may come to be");
        for text in [
            "256.1",
            "1.2.3.4.5",
            "127.0.0.1%lo",
            "fe80::1%",
            "::g",
            "a%lo",
            "localhost",
            " ::1",
        ] {
            assert!(check_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_that_lacks_what_is_stored_is_tried_last() {
        let [a, b, c] = ["a", "b", "c"].map(|name| resolve_one(name.to_owned(), "", 5432).unwrap());
        let mut hosts = vec![a.clone(), b.clone(), c.clone()];
        put_last(&mut hosts, &a);
        assert_eq!(hosts, [b.clone(), c.clone(), a.clone()]);
        put_last(&mut hosts, &c);
        assert_eq!(hosts, [b, a, c]);
    }

    #[test]
    fn an_address_that_lacks_what_is_stored_is_tried_after_the_others() {
        let [a, b, c] = [1, 2, 3].map(|last| SocketAddr::from(([127, 0, 0, last], 5432)));
        let mut lacking = Lacking::default();
        let order = |lacking: &Lacking| {
            let mut addresses = [a, b, c].map(Address::Tcp);
            lacking.put_last(&mut addresses);
            addresses.map(|address| match address {
                Address::Tcp(address) => address,
                Address::Unix(path) => panic!("{path}"),
            })
        };
        for (lacks, expected) in [(a, [b, c, a]), (b, [c, a, b]), (c, [a, b, c]), (a, [b, c, a])] {
            lacking.note(lacks);
            assert_eq!(order(&lacking), expected);
        }
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_told_in_the_words_of_libpq() {
        let path = |directory: usize| {
            let name = "/".repeat(directory);
            resolve_one(name, "", 5432).unwrap().socket_path()
        };
        assert_eq!(path(93).unwrap().len(), LONGEST_SOCKET_PATH);
        let message = path(94).unwrap_err().to_string();
        assert!(
            message.ends_with("/.s.PGSQL.5432\" is too long (maximum 107 bytes)"),
            "{message}"
        );
    }

    #[test]
    fn the_default_socket_directory_is_localhost_in_a_password_file() {
        let host = |name: &str| resolve_one(name.to_owned(), "", 5432).unwrap();
        assert_eq!(host("").password_file_name(), "localhost");
        assert_eq!(host("/elsewhere").password_file_name(), "/elsewhere");
        assert_eq!(host("db1").password_file_name(), "db1");
        let by_address = resolve_one(default_socket_directory().to_owned(), "::1", 5432).unwrap();
        assert_eq!(by_address.password_file_name(), "localhost");
        let other = SOCKET_DIRECTORIES
            .into_iter()
            .find(|other| *other != default_socket_directory());
        assert_eq!(host(other.unwrap()).password_file_name(), other.unwrap());
    }
}
