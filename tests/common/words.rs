//! What is said of a connection, by the server's log and by the program that made it, in words that libpq and walring have in
//! common.

/// What the log says of the connection that was let in. Those before it are not told: the server may notice their end
/// at any time.
pub fn seen(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once('|'));
    let lines: Vec<(&str, &str)> = lines.collect();
    let authorized = |line: &&(&str, &str)| line.1.contains("connection authorized: ");
    let Some((process, _)) = lines.iter().rfind(authorized) else {
        return Vec::new();
    };
    let own = lines.iter().filter(|(pid, _)| pid == process);
    let told = own.filter(|(_, text)| text.contains("authenticated:") || text.contains("authorized:"));
    told.map(|(_, text)| without_places(text)).collect()
}

/// Without the cipher, which both ends choose together, and without lines of files.
fn without_places(text: &str) -> String {
    let text = text.trim_start_matches("LOG:  ");
    let text = text.split(", cipher=").next().unwrap_or(text);
    text.split(" (/").next().unwrap_or(text).to_owned()
}

/// What is said of the connection: a line for each address, or else the first line.
pub fn said(stderr: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = stderr.iter().map(|line| without_name(line)).collect();
    // libpq says nothing of a connection that it makes without encryption after all.
    let of_plain_text = lines
        .iter()
        .position(|line| line.starts_with("warning: going on without encryption"));
    if let Some(at) = of_plain_text {
        // With a hint.
        lines.drain(at..at + 2);
    }
    let mut told: Vec<String> = lines
        .iter()
        .filter(|line| line.starts_with("connection to server"))
        .map(|line| in_common_words(line))
        .collect();
    // walring says once what libpq says of both its tries, with TLS and without.
    told.dedup();
    if told.is_empty() {
        told.extend(lines.first().map(|line| in_common_words(line)));
    }
    told
}

/// A message without the name of the program in front.
fn without_name(line: &str) -> String {
    let names = ["pg_receivewal: ", "walring: "].into_iter();
    let line = names.fold(line, |line, name| line.strip_prefix(name).unwrap_or(line));
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Messages of which libpq gives the beginning and the TLS library the end.
const WITH_REASON: [&str; 5] = [
    "could not read root certificate file \"",
    "could not read certificate file \"",
    "could not load private key file \"",
    "certificate does not match private key file \"",
    "could not set SSL Server Name Indication",
];

/// Words of OpenSSL and of rustls that mean the same.
const SAME: [(&str, &[&str]); 3] = [
    (
        "certificate verify failed",
        &["certificate verify failed", "invalid peer certificate"],
    ),
    (
        "no common version",
        &[
            "protocol version",
            "unsupported protocol",
            "no protocols",
            "wrong version",
            "ProtocolVersion",
        ],
    ),
    ("alert", &["alert"]),
];

/// The message without the words of the TLS library, whose kind takes their place.
fn in_common_words(line: &str) -> String {
    for beginning in WITH_REASON {
        if let Some(at) = line.find(beginning) {
            let path = line[at + beginning.len()..].find('"').unwrap_or_default();
            return line[..at + beginning.len() + path + 1].to_owned();
        }
    }
    let Some((before, words)) = line.split_once("SSL error: ") else {
        return line.to_owned();
    };
    let kind = SAME
        .iter()
        .find(|(_, words_for)| words_for.iter().any(|word| words.contains(word)));
    let kind = kind.map_or(words, |(kind, _)| kind);
    format!("{before}SSL error: {kind}")
}
