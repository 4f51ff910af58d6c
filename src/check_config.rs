//! `ringpost check-config`: what the server would say to a configuration, without starting one. It
//! makes and changes nothing.

use serde_json::json;

use crate::config::keys::KEYS;
use crate::config::{Config, ConfigError, Sources, tables};
use crate::token;

/// What to print, and whether `serve` would take it.
pub fn check(sources: &Sources, as_json: bool) -> (String, bool) {
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return (wrong(&error, as_json), false),
    };
    // A secret that the server makes at its first start is no matter of the configuration.
    let keys = token::keys(&config.auth, || Ok("made at the first start".to_owned()));
    if let Err(error) = keys {
        let text = match as_json {
            true => refusal(&json!({
                "key": error.setting, "file": error.path, "problem": error.problem.to_string(),
            })),
            false => format!("{error}\n"),
        };
        return (text, false);
    }
    let rows = rows(&config);
    if as_json {
        let setting =
            |(key, value, from): &(_, _, _)| json!({"key": key, "value": value, "from": from});
        let settings: Vec<_> = rows.iter().map(setting).collect();
        return (format!("{:#}\n", json!({"ok": true, "settings": settings})), true);
    }
    let width = rows.iter().map(|(key, value, _)| key.len() + value.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value, from) in rows {
        let pad = width - key.len() - value.len();
        text += &format!("{key} = {value}{:pad$}  # {from}\n", "");
    }
    (text + "good\n", true)
}

fn wrong(error: &ConfigError, as_json: bool) -> String {
    let ConfigError { source, key, problem } = error;
    match as_json {
        true => refusal(&json!({"from": source.to_string(), "key": key, "problem": problem})),
        false => format!("{error}\n"),
    }
}

fn refusal(error: &serde_json::Value) -> String {
    format!("{:#}\n", json!({"ok": false, "error": error}))
}

/// Every key with its value and where that was given.
fn rows(config: &Config) -> Vec<(&'static str, String, String)> {
    let names = KEYS
        .iter()
        .map(|key| (key.name, key.default))
        .chain(tables::NAMES.map(|name| (name, None)));
    names
        .filter_map(|(name, default)| match (config.given.get(name), default) {
            (Some(origin), _) => Some((name, origin.shown.clone(), origin.source.to_string())),
            (None, Some(default)) => Some((name, default.to_owned(), "default".to_owned())),
            (None, None) if name == "shards" => {
                Some((name, config.shards.to_string(), "default".to_owned()))
            }
            (None, None) => None,
        })
        // A list of listeners is in place of the key.
        .filter(|(name, _, from)| {
            !(*name == "listen" && from == "default" && config.given.contains_key("listener"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;
    use serde_json::Value;

    fn checked(text: &str, as_json: bool) -> (String, bool) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ringpost.toml");
        std::fs::write(&file, text).expect("written");
        let sources = Sources {
            file: Some(file),
            variables: vec![("RINGPOST_DRAIN_S".to_owned(), "3".to_owned())],
            flags: vec![(keys::find("log.level").expect("a key"), "warn".to_owned())],
        };
        check(&sources, as_json)
    }

    #[test]
    fn a_good_one_is_shown_with_its_sources() {
        let text = "shards = 2\ndrain_s = 1\n[[auth]]\nsecret = \"of sixteen bytes\"\n\
                    [[listener]]\naddress = \"127.0.0.1:1\"";
        let (lines, good) = checked(text, false);
        assert!(good);
        assert!(lines.ends_with("\ngood\n"), "{lines}");
        for words in [
            "shards = 2 ",
            "ringpost.toml\n",
            "drain_s = 3 ",
            "# environment variable RINGPOST_DRAIN_S\n",
            "log.level = warn ",
            "# flag --log-level\n",
            "durability = fsync ",
            "# default\n",
            "auth = 1 of [[auth]] ",
        ] {
            assert!(lines.contains(words), "{words} is missing in\n{lines}");
        }
        assert!(!lines.contains("of sixteen bytes"), "a secret is shown");
        assert!(!lines.contains("\nlisten = "), "{lines}");
        let (text, good) = checked(text, true);
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((good, &json["ok"]), (true, &json!(true)));
        let settings = json["settings"].as_array().expect("a list");
        let of = |key: &str| settings.iter().find(|row| row["key"] == key);
        assert_eq!(of("drain_s").expect("given")["value"], "3");
        assert!(of("ready_file").is_none());
    }

    #[test]
    fn a_wrong_one_is_told_with_its_place() {
        for (text, words) in [
            ("shards = 0", "ringpost.toml: shards: must be 1 to 256"),
            (
                "[[auth]]\njwks_file = \"/nonexistent\"",
                "auth.jwks_file: /nonexistent: No such file",
            ),
        ] {
            let (said, good) = checked(text, false);
            assert!(!good && said.contains(words), "{said}");
            let (said, good) = checked(text, true);
            let json: Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!((good, &json["ok"]), (false, &json!(false)));
            assert!(words.contains(json["error"]["key"].as_str().expect("a name")), "{said}");
        }
    }
}
