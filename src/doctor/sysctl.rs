//! The kernel's settings against those of `tuning/90-ringpost.conf`, which says why each is wanted.

use super::{Finding, Verdict, finding};

/// The file that operators install; what is wanted is read from it and written nowhere else.
const WANTED: &str = include_str!("../../tuning/90-ringpost.conf");

/// How a value is compared.
#[derive(Clone, Copy)]
enum Rule {
    /// More is as good.
    AtLeast,
    /// Less is as good.
    AtMost,
    /// The same, but 0 means that another setting counts.
    AtMostNotZero,
    /// This one.
    Exactly,
}

/// What the values of the file mean.
const RULES: &[(&str, Rule)] = &[
    ("net.core.somaxconn", Rule::AtLeast),
    ("net.ipv4.tcp_max_syn_backlog", Rule::AtLeast),
    ("fs.nr_open", Rule::AtLeast),
    ("net.ipv4.ip_local_port_range", Rule::Exactly),
    ("net.netfilter.nf_conntrack_max", Rule::AtLeast),
    ("net.netfilter.nf_conntrack_tcp_timeout_established", Rule::AtMost),
    ("net.ipv4.tcp_slow_start_after_idle", Rule::Exactly),
    ("net.ipv4.tcp_mtu_probing", Rule::AtLeast),
    ("net.ipv4.tcp_rmem", Rule::Exactly),
    ("vm.dirty_background_bytes", Rule::AtMostNotZero),
    ("vm.dirty_bytes", Rule::AtMostNotZero),
    ("vm.swappiness", Rule::AtMost),
    ("kernel.io_uring_disabled", Rule::Exactly),
    ("kernel.numa_balancing", Rule::Exactly),
];

/// Looks at each setting; `read` is given the path below /proc/sys.
pub fn examine(read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    wanted().filter_map(|setting| setting.examine(read)).collect()
}

/// A line of the file.
struct Setting {
    name: &'static str,
    value: &'static str,
    /// Not every kernel has it.
    optional: bool,
}

fn wanted() -> impl Iterator<Item = Setting> {
    WANTED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.trim();
        let optional = name.starts_with('-');
        Some(Setting { name: name.trim_start_matches('-'), value: value.trim(), optional })
    })
}

impl Setting {
    fn examine(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<Finding> {
        let Setting { name, value, optional } = *self;
        let found = read(&format!("/proc/sys/{}", name.replace('.', "/")));
        let found = match found {
            // Numbers are between tabs there.
            Some(found) => found.split_whitespace().collect::<Vec<_>>().join(" "),
            None if optional => return None,
            None => "not there".to_owned(),
        };
        let (_, rule) = RULES.iter().find(|(known, _)| *known == name)?;
        let numbers = found.parse::<u64>().ok().zip(value.parse::<u64>().ok());
        let good = match rule {
            Rule::AtLeast => numbers.is_some_and(|(found, value)| found >= value),
            Rule::AtMost => numbers.is_some_and(|(found, value)| found <= value),
            Rule::AtMostNotZero => {
                numbers.is_some_and(|(found, value)| (1..=value).contains(&found))
            }
            Rule::Exactly => found == value,
        };
        let wanted = match rule {
            Rule::AtLeast => format!("at least {value}"),
            Rule::AtMost => format!("at most {value}"),
            Rule::AtMostNotZero => format!("1 to {value}"),
            Rule::Exactly => value.to_owned(),
        };
        let verdict = if good { Verdict::Good } else { Verdict::Advice };
        let fix = format!("sysctl -w {name}=\"{value}\"; for good: tuning/90-ringpost.conf");
        Some(finding(name, verdict, found, wanted, &fix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_and_the_rules_name_the_same_settings() {
        let names: Vec<_> = wanted().map(|setting| setting.name).collect();
        assert_eq!(names, RULES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn a_setting_is_held_against_the_file() {
        let read = |path: &str| {
            let value = match path {
                "/proc/sys/net/core/somaxconn" => "8192\n",
                "/proc/sys/net/ipv4/tcp_max_syn_backlog" => "128\n",
                "/proc/sys/net/ipv4/tcp_rmem" => "4096\t131072\t1048576\n",
                "/proc/sys/vm/swappiness" => "60\n",
                "/proc/sys/vm/dirty_bytes" => "0\n",
                "/proc/sys/vm/dirty_background_bytes" => "1000000\n",
                "/proc/sys/kernel/io_uring_disabled" => "0\n",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let findings = examine(&read);
        let of = |name: &str| {
            let found = findings.iter().find(|finding| finding.what == name);
            found.map(|finding| (finding.verdict, finding.to_string()))
        };
        for name in [
            "net.core.somaxconn",
            "net.ipv4.tcp_rmem",
            "vm.dirty_background_bytes",
            "kernel.io_uring_disabled",
        ] {
            assert_eq!(of(name).expect(name).0, Verdict::Good, "{name}");
        }
        for (name, line) in [
            (
                "net.ipv4.tcp_max_syn_backlog",
                "128; wanted: at least 16384; to fix it: sysctl -w \
                 net.ipv4.tcp_max_syn_backlog=\"16384\"; for good: tuning/90-ringpost.conf",
            ),
            ("vm.swappiness", "60; wanted: at most 1; "),
            ("vm.dirty_bytes", "0; wanted: 1 to 268435456; "),
            ("fs.nr_open", "not there; wanted: at least 4194304; "),
        ] {
            let (verdict, text) = of(name).expect(name);
            assert_eq!(verdict, Verdict::Advice, "{text}");
            assert!(text.starts_with(&format!("{name}: {line}")), "{text}");
        }
        assert!(of("net.netfilter.nf_conntrack_max").is_none(), "where it does not exist");
    }
}
