//! What to connect to and as whom: command line, connection string, service file and environment resolved.
//!
//! Precedence, highest first: `-h`, `-p`, `-U`; the connection string of `-d`; the configuration file; the service, if one is named; the
//! environment; what PostgreSQL has compiled in. Within the string the last value of a keyword wins, and an empty
//! value says nothing; in a service file and in the environment it stands, as with libpq. Source: `GetConnection` of
//! PostgreSQL's pg_receivewal, and libpq.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{User, geteuid};

use crate::edge::connstring::{self, ConnectionString};
use crate::edge::hosts::{self, Host, Lacking, Target};
use crate::edge::passfile::{self, Wanted};
use crate::edge::password::Password;
use crate::edge::refusals;
use crate::edge::require_auth::RequireAuth;
use crate::edge::service;
use crate::edge::settings::Settings;
use crate::edge::socket::TcpOptions;
use crate::edge::target_session::TargetSession;
use crate::edge::tls::settings::TlsSettings;
use crate::error::{Error, Result};

/// The database that a replication connection names unless the command line says otherwise.
const REPLICATION: &str = "replication";

/// Session settings that libpq takes from the environment alone.
const SESSION_VARIABLES: [(&str, &str); 3] = [
    ("PGDATESTYLE", "datestyle"),
    ("PGTZ", "timezone"),
    ("PGGEQO", "geqo"),
];

/// What the command line says about the connection.
#[derive(Debug, Clone, Default)]
pub struct Explicit {
    /// The configuration file's connection, which everything else here overrides.
    pub file: Option<ConnectionString>,
    /// `-d`: a connection string, a URI or the plain name of a database.
    pub dbname: Option<ConnectionString>,
    /// `-h`.
    pub host: Option<String>,
    /// `-p`; a string, for libpq is who checks it.
    pub port: Option<String>,
    /// `-U`.
    pub username: Option<String>,
    /// The name the program was called by: the application name unless another is given.
    pub program_name: String,
}

/// Everything needed to connect. `Debug` does not show the password.
#[derive(Debug, Clone)]
pub struct Conninfo {
    /// Where the server may be found, in the order to try; never empty.
    pub hosts: Vec<Host>,
    /// The role to log in as.
    pub user: String,
    /// The parameters of the startup message, names and values, `user` among them.
    pub startup: Vec<(&'static str, String)>,
    /// Which of the servers will do.
    pub target_session: TargetSession,
    /// Whether hosts, and the addresses of each, are tried in random order.
    pub load_balance: bool,
    /// Which addresses of a host are tried after its others.
    pub lacking: Lacking,
    /// How long one address may take to connect and log in, if that is said; `Duration::MAX` is for ever.
    pub connect_timeout: Option<Duration>,
    /// How long that may take where `connect_timeout` says nothing: a server that falls silent while it
    /// lets us in would otherwise hold up a receiver for ever.
    pub patience: Option<Duration>,
    /// The options of a TCP socket.
    pub tcp: TcpOptions,
    /// Whether and how the connection is encrypted.
    pub tls: TlsSettings,
    /// The user whose process has to be at the other end of a Unix socket.
    pub require_peer: Option<String>,
    /// Which ways to authenticate are allowed.
    pub require_auth: RequireAuth,
    password: Option<Password>,
    passfile: Option<PathBuf>,
    database: String,
}

impl Conninfo {
    /// Resolves what was given; `env` looks up environment variables.
    ///
    /// Fails, with libpq's message where it has one, for what libpq would not accept and for what
    /// walring cannot honour (see [`refusals`]).
    pub fn resolve(explicit: &Explicit, env: &dyn Fn(&str) -> Option<String>) -> Result<Conninfo> {
        let settings = gather(explicit, env)?;
        refusals::check(&settings)?;
        refusals::check_cluster(&settings, env)?;
        let user = match settings.value("user") {
            Some(user) => user.to_owned(),
            None => system_user()?,
        };
        let database = settings.value("dbname").unwrap_or(REPLICATION).to_owned();
        let require_auth = settings.value("require_auth").map(RequireAuth::parse);
        Ok(Conninfo {
            hosts: hosts::resolve(&settings)?,
            startup: startup_parameters(&settings, env, &user, &database),
            target_session: TargetSession::of(&settings)?,
            load_balance: hosts::load_balance(&settings)?,
            lacking: Lacking::default(),
            connect_timeout: connect_timeout(&settings)?,
            patience: None,
            tcp: tcp_options(&settings)?,
            tls: TlsSettings::of(&settings, home_directory(env).as_deref())?,
            require_peer: settings.value("requirepeer").map(str::to_owned),
            require_auth: require_auth.transpose()?.unwrap_or_default(),
            password: settings.value("password").and_then(Password::new),
            passfile: passfile_path(&settings, env),
            user,
            database,
        })
    }

    /// The same for an ordinary connection, which may take so long to log in unless `connect_timeout` names a limit.
    pub fn without_replication(mut self, patience: Duration) -> Conninfo {
        self.startup.retain(|(name, _)| *name != "replication");
        self.connect_timeout = self.connect_timeout.filter(|limit| *limit != Duration::MAX);
        self.patience = Some(patience);
        self
    }

    /// The same with only one of the hosts, if it is one of them, and only one of its addresses, if it was reached by one.
    /// It is taken as it is: it may have been promoted since it was chosen.
    pub fn only_to(mut self, name: &str, port: u16, address: Option<SocketAddr>) -> Conninfo {
        let meant = self
            .hosts
            .iter()
            .find(|host| host.name == name && host.port == port);
        if let Some(mut host) = meant.cloned() {
            if let Some(address) = address {
                host.target = Target::Address(hosts::in_numbers(&address));
            }
            self.hosts = vec![host];
            self.target_session = TargetSession::Any;
        }
        self
    }

    /// The password for one host, and the password file if that is where it was found.
    pub fn password_for(&self, host: &Host) -> Option<(Password, Option<PathBuf>)> {
        if let Some(password) = &self.password {
            return Some((password.clone(), None));
        }
        let path = self.passfile.as_ref()?;
        let wanted = Wanted {
            host: host.password_file_name(),
            port: host.port,
            database: &self.database,
            user: &self.user,
        };
        Some((passfile::look_up(path, &wanted)?, Some(path.clone())))
    }
}

/// The value of every option, from wherever it comes; `env` looks up environment variables.
///
/// What pg_receivewal demands whatever it is told beats the service file and the environment: the database, the kind of
/// the connection, and the application name to fall back to.
pub fn gather(explicit: &Explicit, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings> {
    let mut settings = Settings::default();
    settings.set("dbname", REPLICATION)?;
    for text in [&explicit.file, &explicit.dbname].into_iter().flatten() {
        for (keyword, value) in connstring::parse(text.as_str())? {
            settings.set(&keyword, &value)?;
        }
    }
    let demanded = [
        ("replication", "true"),
        ("fallback_application_name", explicit.program_name.as_str()),
        ("host", explicit.host.as_deref().unwrap_or("")),
        ("port", explicit.port.as_deref().unwrap_or("")),
        ("user", explicit.username.as_deref().unwrap_or("")),
    ];
    for (keyword, value) in demanded {
        settings.set(keyword, value)?;
    }
    service::fill(&mut settings, env)?;
    settings.fill_from(env);
    Ok(settings)
}

fn startup_parameters(
    settings: &Settings,
    env: &dyn Fn(&str) -> Option<String>,
    user: &str,
    database: &str,
) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("user", user.to_owned()),
        ("database", database.to_owned()),
        ("replication", "true".to_owned()),
    ];
    let mut add = |name, value: Option<&str>| {
        parameters.extend(
            value
                .filter(|value| !value.is_empty())
                .map(|value| (name, value.to_owned())),
        );
    };
    add("options", settings.value("options"));
    let name = settings.value("application_name");
    add(
        "application_name",
        name.or(settings.value("fallback_application_name")),
    );
    // "auto" asks for the encoding of the locale; whatever that is, walring's own is UTF-8.
    let encoding = settings.value("client_encoding");
    add(
        "client_encoding",
        encoding.map(|name| if name == "auto" { "UTF8" } else { name }),
    );
    for (variable, name) in SESSION_VARIABLES {
        let value = env(variable).filter(|value| !value.eq_ignore_ascii_case("default"));
        add(name, value.as_deref());
    }
    parameters
}

fn tcp_options(settings: &Settings) -> Result<TcpOptions> {
    let keepalives = settings
        .integer("keepalives")
        .map_err(|_| Error::usage("keepalives parameter must be an integer"))?;
    let seconds = |keyword| -> Result<Option<Duration>> {
        Ok(positive(settings, keyword)?.map(|seconds| Duration::from_secs(seconds.into())))
    };
    Ok(TcpOptions {
        keepalives: keepalives != Some(0),
        keepalives_idle: seconds("keepalives_idle")?,
        keepalives_interval: seconds("keepalives_interval")?,
        keepalives_count: positive(settings, "keepalives_count")?,
        user_timeout_ms: positive(settings, "tcp_user_timeout")?,
    })
}

/// Zero and less are for ever. (libpq makes two seconds of one, up to version 16.)
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>> {
    let limit = |seconds| match u64::try_from(seconds) {
        Ok(0) | Err(_) => Duration::MAX,
        Ok(seconds) => Duration::from_secs(seconds),
    };
    Ok(settings.integer("connect_timeout")?.map(limit))
}

/// A number that means "as the system does it" when it is zero or negative.
fn positive(settings: &Settings, keyword: &str) -> Result<Option<u32>> {
    let number = settings.integer(keyword)?;
    Ok(number
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| *number > 0))
}

fn passfile_path(settings: &Settings, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(path) = settings.value("passfile") {
        return Some(PathBuf::from(path));
    }
    Some(home_directory(env)?.join(".pgpass"))
}

/// Where libpq looks for files of the user's: HOME, or what the system says.
pub fn home_directory(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    match env("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Some(PathBuf::from(home)),
        None => Some(User::from_uid(geteuid()).ok()??.dir),
    }
}

fn system_user() -> Result<String> {
    let uid = geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => Ok(user.name),
        Ok(None) => Err(Error::usage(format!("local user with ID {uid} does not exist"))),
        Err(error) => Err(Error::usage(format!(
            "could not look up local user ID {uid}: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(explicit: &Explicit, env: &[(&str, &str)]) -> Result<Conninfo> {
        Conninfo::resolve(explicit, &|name| {
            let found = env.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn given(dbname: &str) -> Explicit {
        Explicit {
            dbname: Some(dbname.to_owned().into()),
            program_name: "walring".to_owned(),
            ..Explicit::default()
        }
    }

    fn startup(info: &Conninfo, name: &str) -> Option<String> {
        let found = info.startup.iter().find(|(parameter, _)| *parameter == name);
        found.map(|(_, value)| value.clone())
    }

    #[test]
    fn the_command_line_beats_the_string_and_the_string_the_environment() {
        let env = [
            ("PGHOST", "env"),
            ("PGPORT", "1"),
            ("PGUSER", "env"),
            ("PGAPPNAME", "env"),
        ];
        let info = resolve(&given(""), &env).unwrap();
        assert_eq!((info.hosts[0].name.as_str(), info.hosts[0].port), ("env", 1));
        assert_eq!(
            (info.user.as_str(), startup(&info, "application_name")),
            ("env", Some("env".into()))
        );

        let string = given("host=d port=2 user=d application_name=d");
        let info = resolve(&string, &env).unwrap();
        assert_eq!((info.hosts[0].name.as_str(), info.hosts[0].port), ("d", 2));
        assert_eq!(
            (info.user.as_str(), startup(&info, "application_name")),
            ("d", Some("d".into()))
        );

        let explicit = Explicit {
            host: Some("h".to_owned()),
            port: Some("3".to_owned()),
            username: Some("U".to_owned()),
            ..string
        };
        let info = resolve(&explicit, &env).unwrap();
        assert_eq!((info.hosts[0].name.as_str(), info.hosts[0].port), ("h", 3));
        assert_eq!(
            (info.user.as_str(), startup(&info, "user")),
            ("U", Some("U".into()))
        );
    }

    #[test]
    fn a_physical_replication_connection_is_always_asked_for() {
        for (dbname, database) in [
            ("", "replication"),
            ("host=a", "replication"),
            ("replication=database dbname=x", "x"),
            ("postgresql:///x", "x"),
        ] {
            let info = resolve(&given(dbname), &[("PGDATABASE", "ignored")]).unwrap();
            assert_eq!(startup(&info, "replication").as_deref(), Some("true"));
            assert_eq!(startup(&info, "database").as_deref(), Some(database), "{dbname}");
        }
    }

    #[test]
    fn the_program_name_is_the_last_resort_for_an_application_name() {
        let name = |dbname: &str| startup(&resolve(&given(dbname), &[]).unwrap(), "application_name");
        assert_eq!(name("").as_deref(), Some("walring"));
        assert_eq!(name("fallback_application_name=x").as_deref(), Some("walring"));
        assert_eq!(name("application_name=x").as_deref(), Some("x"));
    }

    #[test]
    fn session_settings_come_from_string_and_environment() {
        let env = [("PGOPTIONS", "-c a=1"), ("PGTZ", "UTC"), ("PGGEQO", "default")];
        let info = resolve(&given("client_encoding=auto"), &env).unwrap();
        assert_eq!(startup(&info, "options").as_deref(), Some("-c a=1"));
        assert_eq!(startup(&info, "timezone").as_deref(), Some("UTC"));
        assert_eq!(startup(&info, "client_encoding").as_deref(), Some("UTF8"));
        assert_eq!(startup(&info, "geqo"), None);
    }

    #[test]
    fn the_options_of_the_socket_are_read_as_libpq_reads_them() {
        let info = resolve(
            &given("connect_timeout=-1 keepalives=0 keepalives_idle=7 tcp_user_timeout=9"),
            &[],
        );
        let info = info.unwrap();
        assert_eq!(info.connect_timeout, Some(Duration::MAX), "for ever");
        assert!(!info.tcp.keepalives);
        assert_eq!(info.tcp.keepalives_idle, Some(Duration::from_secs(7)));
        assert_eq!(info.tcp.keepalives_interval, None);
        assert_eq!(info.tcp.user_timeout_ms, Some(9));
        assert_eq!(resolve(&given(""), &[]).unwrap().connect_timeout, None);
        let info = resolve(&given(""), &[("PGCONNECT_TIMEOUT", "3")]).unwrap();
        assert_eq!(info.connect_timeout, Some(Duration::from_secs(3)));
        assert!(info.tcp.keepalives);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (dbname, message) in [
            ("foo=1", "invalid connection option \"foo\""),
            ("keepalives=x", "keepalives parameter must be an integer"),
            (
                "connect_timeout=x",
                "invalid integer value \"x\" for connection option \"connect_timeout\"",
            ),
            (
                "postgresql://h:x/",
                "invalid integer value \"x\" for connection option \"port\"",
            ),
            ("require_auth=x", "invalid require_auth value: \"x\""),
            ("sslmode=Require", "invalid sslmode value: \"Require\""),
            (
                "target_session_attrs=x",
                "invalid target_session_attrs value: \"x\"",
            ),
            ("load_balance_hosts=x", "invalid load_balance_hosts value: \"x\""),
        ] {
            assert_eq!(resolve(&given(dbname), &[]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_password_shows_nowhere() {
        let explicit = given("password=secret");
        let info = resolve(&explicit, &[]).unwrap();
        assert!(!format!("{explicit:?} {info:?}").contains("secret"));
        let (password, file) = info.password_for(&info.hosts[0]).unwrap();
        assert_eq!((password.bytes(), file), (&b"secret"[..], None));
    }

    #[test]
    fn the_password_file_is_used_only_without_another_password() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".pgpass");
        std::fs::write(&path, "h:5432:replication:u:filed\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let home = home.path().to_str().unwrap();
        let password = |dbname: &str, env: &[(&str, &str)]| {
            let info = resolve(&given(dbname), env).unwrap();
            let (password, file) = info.password_for(&info.hosts[0])?;
            Some((String::from_utf8(password.bytes().to_vec()).unwrap(), file))
        };
        assert_eq!(
            password("host=h user=u", &[("HOME", home)]),
            Some(("filed".into(), Some(path.clone())))
        );
        assert_eq!(password("host=h user=other", &[("HOME", home)]), None);
        let elsewhere = [("PGPASSFILE", path.to_str().unwrap()), ("HOME", "/nowhere")];
        assert!(password("host=h user=u", &elsewhere).is_some());
        let env = [("HOME", home), ("PGPASSWORD", "env")];
        assert_eq!(password("host=h user=u", &env), Some(("env".into(), None)));
    }
}
