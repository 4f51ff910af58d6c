//! What SIGHUP does: reads the configuration and the key files again, and makes of them what may
//! change while the server runs. A wrong one changes nothing.

use crate::config::{Config, Sources};
use crate::control;
use crate::control::auth::ApiKeys;
use crate::logging::Level;
use crate::secrets;
use crate::serve::Live;
use crate::settings::Settings;
use crate::token::{self, KeyError};

/// What takes effect without a restart, by the names of its keys. What a file holds that one of
/// them names is read again even when the name stays.
pub const RELOADED: &[&str] = &[
    "address.handshakes_max",
    "address.upgrade_burst",
    "address.upgrades_per_s",
    "api.key",
    "auth",
    "log.level",
    "metrics.public",
    "rate_limit.messages_burst",
    "rate_limit.messages_per_s",
    "rate_limit.requests_burst",
    "rate_limit.requests_per_s",
    "rate_limit_strikes",
];

/// The keys of tokens and of the API, from the configuration or the data directory.
///
/// # Errors
/// A key's file cannot be used.
pub fn prepare(config: &Config) -> Result<Live, KeyError> {
    let in_data = |name: &'static str| -> Result<String, KeyError> {
        let path = config.data.join(name);
        let wrong = |problem| KeyError::new(name, &path, problem);
        secrets::create_private_directory(&config.data).map_err(wrong)?;
        let (secret, made) = secrets::load_or_create(&path).map_err(wrong)?;
        if made {
            tracing::info!(path = %path.display(), "made a secret, readable by this user alone");
        }
        Ok(secret)
    };
    let (tokens, signer) = token::keys(&config.auth, || in_data(secrets::TOKEN_SECRET))?;
    let keys = ApiKeys::new(&config.api.keys, || in_data(secrets::API_KEY))?;
    Ok(Live {
        settings: Settings {
            tokens: Box::new(tokens),
            address: config.address,
            rates: config.rates,
        },
        api: control::Setup { keys, signer, metrics_public: config.metrics.public },
    })
}

/// Reads the sources again whenever it is asked to.
pub struct Reloader<'a> {
    sources: &'a Sources,
    /// What the process runs by: of what needs a restart, as it was at the start.
    running: Config,
    level: Level,
}

impl Reloader<'_> {
    /// `running` was read from the same sources.
    pub fn new(sources: &Sources, running: Config, level: Level) -> Reloader<'_> {
        Reloader { sources, running, level }
    }

    /// The new settings; `None`: they are wrong, which was logged, and the old ones stay.
    pub fn reload(&mut self) -> Option<Live> {
        let refuse = |error: &dyn std::fmt::Display| {
            tracing::error!("not reloaded, the old settings stay: {error}");
        };
        let new = self.sources.load().inspect_err(|error| refuse(error)).ok()?;
        // The directory of the generated secrets is the store's, which stays where it is.
        let new = Config { data: self.running.data.clone(), ..new };
        let live = prepare(&new).inspect_err(|error| refuse(error)).ok()?;
        let changed = new.changed_from(&self.running);
        let (live_now, later): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|name| RELOADED.contains(name));
        self.level.set(new.log.level);
        tracing::info!(changed = ?live_now, "SIGHUP: configuration and key files are read again");
        if !later.is_empty() {
            tracing::warn!(changed = ?later, "these take effect at the next start");
        }
        // What waits for a restart is told at each reload until then.
        let mut given = new.given;
        for name in RELOADED {
            match given.remove(name) {
                Some(origin) => _ = self.running.given.insert(name, origin),
                None => _ = self.running.given.remove(name),
            }
        }
        Some(live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;
    use crate::config::tables;

    #[test]
    fn what_is_reloaded_can_be_set() {
        let names: Vec<_> = KEYS.iter().map(|key| key.name).chain(tables::NAMES).collect();
        for name in RELOADED {
            assert!(names.contains(name), "{name}");
        }
    }
}
