//! What walring says before anything is encrypted: no more, and nothing else, than libpq.
mod common;

use common::attempt::{Attempt, Client};
use common::hello::{Hello, hello_of};

/// The same hello of libpq and of walring.
fn hellos(settings: &str) -> Option<[Hello; 2]> {
    let attempt = Attempt::with(format!("user=nobody {settings}"));
    let both = [Client::newest_libpq(), Client::Walring].map(|client| hello_of(&client, &attempt).0);
    let said = both.each_ref().map(Option::is_some);
    assert_eq!(said[0], said[1], "whether TLS is wanted with {settings}");
    let [theirs, ours] = both;
    Some([theirs?, ours?])
}

#[test]
fn the_name_asked_for_is_the_host_unless_it_is_an_address() {
    for (settings, name) in [
        ("host=db.example.test", Some("db.example.test")),
        ("host=localhost", Some("localhost")),
        ("host=DB.Example.TEST", Some("DB.Example.TEST")),
        ("host=with_underscore.test", Some("with_underscore.test")),
        ("host=db.example.test sslsni=1", Some("db.example.test")),
        ("host=db.example.test sslsni=0", None),
        ("host=db.example.test sslsni=yes", None),
        ("host=127.0.0.1", None),
        ("host=1.2", None),
        ("host=::1", None),
    ] {
        let hellos = hellos(&format!("sslmode=require {settings}")).expect("TLS is wanted");
        let [theirs, ours] = hellos.map(|hello| hello.server_name());
        assert_eq!(theirs.as_deref(), name, "libpq with {settings}");
        // A name is the same in capitals.
        let ours = ours.map(|name| name.to_lowercase());
        assert_eq!(ours, name.map(str::to_lowercase), "walring with {settings}");
    }
}

#[test]
fn the_protocol_is_named_where_libpq_names_it() {
    for (settings, at_once) in [
        ("", false),
        ("sslnegotiation=postgres", false),
        ("sslnegotiation=direct", true),
    ] {
        if !Client::newest_libpq().is_new() {
            return;
        }
        let hellos = hellos(&format!("sslmode=require {settings}")).expect("TLS is wanted");
        for hello in &hellos {
            assert_eq!(hello.at_once, at_once, "{settings}");
            assert_eq!(hello.protocols(), ["postgresql"], "{settings}");
        }
    }
}

#[test]
fn nobody_is_asked_who_is_not_to_be_asked() {
    assert!(hellos("sslmode=disable").is_none());
    assert!(hellos("sslmode=allow").is_none());
    assert!(hellos("sslmode=prefer").is_some());
    assert!(hellos("").is_some());
}
