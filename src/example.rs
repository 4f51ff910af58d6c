//! A configuration file with every key, for `check-config --example`: made from the table of keys,
//! so that it is never behind it.

use crate::config::keys::{KEYS, Key, PREFIX};

/// Columns of a line.
const WIDTH: usize = 100;

const HEAD: &str = "\
Ringpost's configuration. Every key is here, commented out with its default: take the # away from \
what you change. A variable of the environment wins over the file, and a flag of `ringpost serve` \
over both. `ringpost check-config --config FILE` looks at what you have made of it.";

/// The tables that have no flags; they are at the end of the file.
const LISTS: &str = r##"
# ------------------------------------------------------------------------------------------------
# In the file alone.

# Where WebSocket clients connect, up to 16 addresses; in place of `listen` above.
#[[listener]]
# IP address and port; port 0: the system chooses.
#address = "127.0.0.1:7070"
# Spoken at every path without a route; without it they are refused with 404.
#default_dialect = "imboy"
# Networks of proxies that send a PROXY protocol header, version 2, and are believed; default: none.
# From them every connection must begin with one.
#proxy_from = ["10.0.0.0/8", "::1"]

# Which dialect is spoken at which path; default: imboy at these three.
#[[route]]
#path = "/imboy/ws"
#dialect = "imboy"
#[[route]]
#path = "/ws"
#dialect = "imboy"
#[[route]]
#path = "/ws/"
#dialect = "imboy"

# Who may use the HTTP API; without any: the key that the server makes in its data directory.
#[[api.key]]
# For logs, 1 to 64 bytes.
#name = "backend"
# printf %s "$KEY" | sha256sum
#hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
# read: look at everything; write: change it; admin: mint tokens, which is to be any user.
#scopes = ["read", "write"]

# Whose tokens are taken, up to 16 keys; without any: those signed with the secret that the server
# makes in its data directory. Exactly one of secret, secret_file, public_key_file, jwks_file.
#[[auth]]
# Only tokens with this kid; default: with any, or none. Not with jwks_file.
#kid = "2026"
# HS256, 16 to 4096 bytes. Tokens are minted with the first secret.
#secret_file = "token-secret"
# The claim that holds the user's id.
#user_claim = "sub"
# Claims that must have exactly these values; default: none.
#require = { typ = "access" }
#[[auth]]
# PEM: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA.
#public_key_file = "issuer.pem"
#[[auth]]
# A set of such keys (RFC 7517), each with its kid.
#jwks_file = "jwks.json"

# imboy: the keys of the `sign` that apps send, by major version; default: it is not asked for. An
# app whose sign is wrong is told to get the newest one (code 707).
#[imboy.sign_keys]
#0 = "key of the apps of version 0"

# imboy: ids on the wire are hashids of the numbers that users and groups have here; default: the
# ids themselves. Also min_length and alphabet, by default those of the imboy server.
#[imboy.hashids]
#salt = "salt of the original server"
"##;

/// The file.
pub fn text() -> String {
    let mut text = String::new();
    comment(HEAD, &mut text);
    let section = |key: &Key| key.name.rsplit_once('.').map(|(section, _)| section);
    // In TOML the keys without a table come first.
    for key in KEYS.iter().filter(|key| section(key).is_none()) {
        put_key(key, key.name, &mut text);
    }
    let mut sections: Vec<&str> = Vec::new();
    for section in KEYS.iter().filter_map(section) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    for name in sections {
        text += &format!("\n[{name}]\n");
        for key in KEYS.iter().filter(|key| section(key) == Some(name)) {
            put_key(key, &key.name[name.len() + 1..], &mut text);
        }
    }
    text + LISTS
}

fn put_key(key: &Key, name: &str, text: &mut String) {
    text.push('\n');
    comment(key.about, text);
    let variable = key.variable();
    assert!(variable.starts_with(PREFIX));
    let default = key.default.map(|default| format!("; default: {default}")).unwrap_or_default();
    comment(&format!("Range: {}{default}; {variable}, --{}", key.range(), key.flag()), text);
    *text += &format!("#{name} = {}\n", key.example());
}

/// Puts a text as comments of at most [`WIDTH`] columns.
fn comment(words: &str, text: &mut String) {
    let mut line = "#".to_owned();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            *text += &line;
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line += word;
    }
    *text += &line;
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources, tables};

    fn load(text: &str) -> Config {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ringpost.toml");
        std::fs::write(&file, text).expect("written");
        let sources = Sources { file: Some(file), ..Sources::default() };
        sources.load().unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// The text with what is commented out taken in: lines whose # has no blank behind it.
    fn taken_in(text: &str) -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with([' ', '-']) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn as_it_is_it_changes_nothing() {
        assert_eq!(load(&text()), Config::default());
    }

    #[test]
    fn every_key_is_in_it_and_what_it_shows_is_the_default() {
        // One of the two ways to say where to listen.
        let whole = taken_in(&text()).replacen("listen = ", "#listen = ", 1);
        let config = load(&whole);
        let names = KEYS.iter().map(|key| key.name).filter(|name| *name != "listen");
        for name in names.chain(tables::NAMES) {
            assert!(config.given.contains_key(name), "{name} is not in the example");
        }
        // Without the lists and what has no default, it is the default.
        let singles = whole[..whole.find("# In the file alone").expect("the lists")].to_owned();
        let Config { shards: _, ready_file: _, given: _, ref listeners, .. } = Config::default();
        let shown = load(&singles);
        let shown = Config {
            shards: Config::default().shards,
            ready_file: None,
            given: Default::default(),
            ..shown
        };
        assert_eq!(shown.listeners, *listeners);
        assert_eq!(shown, Config::default());
        let lists = load(&whole);
        assert_eq!(lists.routes, Config::default().routes);
        assert_eq!(lists.auth.len(), 3);
    }

    #[test]
    fn lines_fit() {
        for line in text().lines() {
            assert!(line.len() <= WIDTH, "{line}");
        }
    }
}
