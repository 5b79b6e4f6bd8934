use super::*;

fn options() -> Vec<OptionKind> {
    let kind = |name: &str, is_switch| OptionKind {
        name: name.to_owned(),
        is_switch,
    };
    vec![
        kind("slot", false),
        kind("slot-mode", false),
        kind("status-interval", false),
        kind("slot-watch", false),
        kind("host", false),
        kind("synchronous", true),
        kind("password", true),
        kind("create-slot", true),
    ]
}

fn parsed(text: &str) -> (ConfigFile, Vec<String>) {
    let (file, problems) = ConfigFile::parse(Path::new("w.toml"), text, &options());
    (file, problems.iter().map(Error::to_string).collect())
}

#[test]
fn options_are_read_with_their_lines_and_switches_that_are_off_say_nothing() {
    let (file, problems) =
        parsed("# c\nslot = \"a\"\nsynchronous = true\npassword=false\nstatus-interval = 0x0A\n");
    assert_eq!(problems, [""; 0]);
    let arguments: Vec<_> = file
        .entries
        .iter()
        .map(|entry| (entry.argument(), entry.line))
        .collect();
    let expected = [("--slot=a", 2), ("--synchronous", 3), ("--status-interval=10", 5)];
    assert_eq!(arguments, expected.map(|(text, line)| (text.to_owned(), line)));
    assert_eq!(file.line_of("slot"), Some(2));
}

#[test]
fn keywords_of_the_connection_override_the_connection_string_beside_them() {
    let (file, problems) = parsed("[connection]\nport = 1\nconninfo = \"host=a port=2\"\n");
    assert_eq!(problems, [""; 0]);
    let expected = [("host", "a", 3), ("port", "2", 3), ("port", "1", 2)];
    let expected = expected.map(|(keyword, value, line)| (keyword.to_owned(), value.to_owned(), line));
    assert_eq!(file.connection, expected);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_the_way_out() {
    for (text, expected) in [
        (
            "\nslto = 1",
            "line 2: unknown key \"slto\"; did you mean \"slot\"?",
        ),
        (
            "slot_mode = 1",
            "line 1: unknown key \"slot_mode\"; did you mean \"slot-mode\"?",
        ),
        ("zzz = 1", "line 1: unknown key \"zzz\""),
        (
            "sslmode = \"require\"",
            "line 1: unknown key \"sslmode\": it belongs into the table [connection]",
        ),
        (
            "host = \"a\"",
            "line 1: \"host\" belongs into the table [connection]",
        ),
        (
            "create-slot = true",
            "line 1: \"create-slot\" can only be given on the command line",
        ),
        ("slot = true", "line 1: \"slot\" must be a text or a whole number"),
        (
            "slot = [\"a\"]",
            "line 1: \"slot\" must be a text or a whole number",
        ),
        (
            "status-interval = 1.5",
            "line 1: \"status-interval\" must be a text or a whole number",
        ),
        (
            "synchronous = \"yes\"",
            "line 1: \"synchronous\" must be true or false",
        ),
        (
            "connection = 1",
            "line 1: \"connection\" must be a table: [connection]",
        ),
        (
            "[conection]",
            "line 1: unknown key \"conection\"; did you mean \"connection\"?",
        ),
        (
            "[connection]\nslot = \"a\"",
            "line 2: \"slot\" is no setting of a connection: it belongs above the line [connection]",
        ),
        (
            "[connection]\nsllmode = \"a\"",
            "line 2: unknown key \"sllmode\"; did you mean \"sslmode\"?",
        ),
        (
            "[connection]\nport = true",
            "line 2: \"port\" must be a text or a whole number",
        ),
        (
            "[connection]\nconninfo = \"foo bar=1\"",
            "line 2: missing \"=\" after \"foo\" in connection info string",
        ),
    ] {
        let (_, problems) = parsed(text);
        assert_eq!(problems, [format!("\"w.toml\", {expected}")], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    assert_eq!(parsed("a = 1\nb = 2\n[connection]\nc = 3\nd = 4").1.len(), 4);
    assert!(parsed("slot = \nsynchronous = maybe").1.len() >= 2);
}

#[test]
fn a_password_in_the_wrong_place_is_not_repeated() {
    for text in [
        "password = \"s3cret\"",
        "[connection]\npassword = s3cret",
        "[connection]\npassword = \"s3cret",
        "[connection]\npassword = \"s3cret\npassword = \"s3cret\"",
        "[connection]\npassword = ['s3cret']",
        "[connection]\npassword = \"s3cret\"\npassword = \"s3cret\"",
        "[connection]\npassword = \"\\s3cret\"",
    ] {
        let (_, problems) = parsed(text);
        assert!(!problems.is_empty(), "{text}");
        assert!(!problems.concat().contains("s3cret"), "{problems:?}");
    }
}

#[test]
fn a_file_holds_a_secret_wherever_a_password_is() {
    for (text, expected) in [
        ("[connection]\npassword = \"a\"", true),
        ("[connection]\nsslpassword = \"a\"", true),
        ("[connection]\npassword = \"\"", false),
        ("[connection]\npassfile = \"a\"", false),
        ("[connection]\nconninfo = \"postgresql://a:b@c\"", true),
        ("slot-watch = \"password=a\"", true),
        ("slot-watch = \"same\"", false),
        ("slot = \"password=a\"", false),
    ] {
        assert_eq!(parsed(text).0.holds_secret(), expected, "{text}");
    }
}
