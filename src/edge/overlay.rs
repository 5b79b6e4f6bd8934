//! One set of connection settings laid over another: the command line's over the configuration file's, the slot
//! watch's over the stream's.

use super::connstring::{ConnectionString, Pairs};

/// The settings of both, those above behind those below, where they win.
pub fn laid_over(below: Pairs, above: &[(String, String)]) -> Pairs {
    let mut pairs = left_below(below, above);
    // An empty value says nothing.
    pairs.extend(above.iter().filter(|(_, value)| !value.is_empty()).cloned());
    pairs
}

/// The settings below without those that would lead elsewhere together with the ones above: a host above replaces
/// the address that belongs to a host below, and a service above stands for everything.
pub fn left_below(mut below: Pairs, above: &[(String, String)]) -> Pairs {
    let names = |wanted: &[&str]| {
        above
            .iter()
            .any(|(keyword, value)| wanted.contains(&keyword.as_str()) && !value.is_empty())
    };
    let (service, another_host) = (names(&["service"]), names(&["host", "hostaddr"]));
    below.retain(|(keyword, value)| match keyword.as_str() {
        _ if service => false,
        "host" | "hostaddr" => !another_host,
        // As many ports as there were hosts: they belong to these.
        "port" => !another_host || !value.contains(','),
        _ => true,
    });
    below
}

/// Whether `name` stands for the keyword: itself, or an old spelling of it.
pub fn is_named(name: &str, keyword: &str) -> bool {
    name == keyword || (name == "requiressl" && keyword == "sslmode")
}

/// The settings as a connection string.
pub fn written(pairs: &[(String, String)]) -> ConnectionString {
    let mut text = String::new();
    for (keyword, value) in pairs {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        text += &format!("{keyword}='{value}' ");
    }
    ConnectionString::from(text)
}

#[cfg(test)]
mod tests {
    use super::super::connstring::parse;
    use super::*;

    fn over(below: &str, above: &str) -> Vec<String> {
        let pairs = laid_over(parse(below).unwrap(), &parse(above).unwrap());
        let show = |(keyword, value): &(String, String)| format!("{keyword}={value}");
        pairs.iter().map(show).collect()
    }

    #[test]
    fn what_stands_above_comes_last_and_a_host_takes_the_address_below_away() {
        let below = "host=b hostaddr=::1 user=a port=1";
        assert_eq!(over(below, "host=c"), ["user=a", "port=1", "host=c"]);
        assert_eq!(over("host=b,d port=1,2", "host=c"), ["host=c"]);
        assert_eq!(over("host=b port=1", "port=2"), ["host=b", "port=1", "port=2"]);
        assert_eq!(over("host=b", "service=s"), ["service=s"]);
        assert_eq!(over("host=b", "host='' service=''"), ["host=b"]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let pairs = vec![
            ("password".to_owned(), "a b'c\\d".to_owned()),
            ("user".to_owned(), String::new()),
        ];
        assert_eq!(parse(written(&pairs).as_str()).unwrap(), pairs);
    }
}
