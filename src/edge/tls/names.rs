//! Whether a certificate is for the host that was meant, by libpq's rules.
//!
//! They differ from what libraries do: a certificate without a subject alternative name of the host's kind is judged by
//! its common name, as those are that PostgreSQL's documentation makes.
//!
//! Source: PostgreSQL doc libpq.sgml, "Client Verification of Server Certificates"; libpq for the messages.

use std::net::{IpAddr, Ipv4Addr};

use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::error::printable;

/// Fails, in libpq's words, if the certificate is for another host.
pub fn check(certificate: &Certificate, host: &str) -> Result<(), String> {
    let names = alternative_names(certificate)?;
    let address = address(host);
    let mut examined = Vec::new();
    let mut common_name_counts = true;
    for name in &names {
        let (shown, matches, same_kind) = match name {
            GeneralName::DnsName(name) => {
                let name = name.as_str();
                check_nul(name)?;
                (name.to_owned(), matches(name, host), address.is_none())
            }
            GeneralName::IpAddress(bytes) => {
                let found = parse_address(bytes.as_bytes())?;
                (found.to_string(), address == Some(found), address.is_some())
            }
            _ => continue,
        };
        if matches {
            return Ok(());
        }
        common_name_counts &= !same_kind;
        examined.push(shown);
    }
    if common_name_counts && let Some(name) = common_name(certificate) {
        check_nul(&name)?;
        if matches(&name, host) {
            return Ok(());
        }
        examined.push(name);
    }
    Err(mismatch(&examined, host))
}

fn mismatch(examined: &[String], host: &str) -> String {
    let Some((first, others)) = examined.split_first() else {
        return "could not get server's host name from server certificate".to_owned();
    };
    let others = match others.len() {
        0 => String::new(),
        1 => " (and 1 other name)".to_owned(),
        count => format!(" (and {count} other names)"),
    };
    let first = printable(first);
    format!("server certificate for \"{first}\"{others} does not match host name \"{host}\"")
}

/// Names that cannot be read are not passed over: the common name counts only where there are none.
fn alternative_names(certificate: &Certificate) -> Result<Vec<GeneralName>, String> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let found =
        found.map_err(|error| format!("could not read the names in the server's certificate: {error}"))?;
    Ok(found.map_or(Vec::new(), |(_, names)| names.0))
}

/// The common name of the subject.
fn common_name(certificate: &Certificate) -> Option<String> {
    let name = certificate.tbs_certificate().subject().common_name().ok()??;
    Some(name.value().into_owned())
}

fn parse_address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(bytes.into());
    }
    let length = bytes.len();
    <[u8; 16]>::try_from(bytes)
        .map(IpAddr::from)
        .map_err(|_| format!("certificate contains IP address with invalid length {length}"))
}

/// The address that a host is, also in the forms with fewer numbers that inet_aton(3) knows (`127.1`), as libpq has it.
fn address(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let numbers: Option<Vec<u32>> = host.split('.').map(number).collect();
    let numbers = numbers.filter(|numbers| numbers.len() <= 4)?;
    let (last, first) = numbers.split_last()?;
    let mut address = u64::from(*last);
    if address >= 1 << (8 * (4 - first.len())) {
        return None;
    }
    for (at, &number) in first.iter().enumerate() {
        address |= u64::from(u8::try_from(number).ok()?) << (8 * (3 - at));
    }
    Some(Ipv4Addr::from_bits(u32::try_from(address).ok()?).into())
}

/// A number as C writes it: decimal, octal behind a zero, hexadecimal behind `0x`.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    u32::from_str_radix(digits, radix).ok().filter(|_| is_number)
}

/// A name that ends early for programs in C could be read as two (CVE-2009-4034).
fn check_nul(name: &str) -> Result<(), String> {
    match name.contains('\0') {
        true => Err("SSL certificate's name contains embedded null".to_owned()),
        false => Ok(()),
    }
}

/// The same name, or one that `*.` stands for: a single label, in front.
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern
        .strip_prefix('*')
        .filter(|suffix| suffix.len() > 1 && suffix.starts_with('.'))
    else {
        return false;
    };
    let Some(at) = host
        .len()
        .checked_sub(suffix.len())
        .filter(|&at| at > 0 && host.is_char_boundary(at))
    else {
        return false;
    };
    let (label, rest) = host.split_at(at);
    rest.eq_ignore_ascii_case(suffix) && !label.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, host, expected) in [
            ("db.example", "DB.Example", true),
            ("*.example", "db.example", true),
            ("*.EXAMPLE", "db.example", true),
            ("*.example", "a.b.example", false),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("d*.example", "db.example", false),
            ("*.example", "dbxexample", false),
            ("*.é", "aé.é", true),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn addresses_are_read_as_c_reads_them() {
        for (text, expected) in [
            ("127.0.0.1", Some("127.0.0.1")),
            ("127.1", Some("127.0.0.1")),
            ("127.0.257", Some("127.0.1.1")),
            ("2130706433", Some("127.0.0.1")),
            ("0x7f.1", Some("127.0.0.1")),
            ("010.0.0.1", Some("8.0.0.1")),
            ("::1", Some("::1")),
            ("256.1", None),
            ("1.16777216", None),
            ("1.2.3.4.5", None),
            ("127.", None),
            ("+1.2", None),
            ("db.1", None),
            ("", None),
        ] {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(address(text), expected, "{text}");
        }
    }

    #[test]
    fn a_mismatch_names_the_first_of_the_names() {
        let said = |names: &[&str]| mismatch(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), "h");
        assert_eq!(
            said(&["a"]),
            "server certificate for \"a\" does not match host name \"h\""
        );
        assert_eq!(
            said(&["a", "b"]),
            "server certificate for \"a\" (and 1 other name) does not match host name \"h\""
        );
        assert_eq!(
            said(&["a", "b", "c"]),
            "server certificate for \"a\" (and 2 other names) does not match host name \"h\""
        );
        assert_eq!(
            said(&[]),
            "could not get server's host name from server certificate"
        );
    }
}
