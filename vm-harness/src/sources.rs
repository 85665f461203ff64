//! Which Debian mirror this host is configured for: a reader of apt's two source formats.

use std::fs;
use std::path::Path;

/// A binary repository that apt on this host already uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The repository's base address, as configured.
    pub uri: String,
    /// Suites enabled for it.
    pub suites: Vec<String>,
    /// Components enabled for it.
    pub components: Vec<String>,
    /// Keyring that signs it, when the source names one.
    pub signed_by: Option<String>,
}

/// Reads every source below `etc_apt` (normally `/etc/apt`). Files that cannot be read are skipped: apt would complain about them itself.
pub fn configured(etc_apt: &Path) -> Vec<Source> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut parts: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => sources.extend(parse_deb822(&text)),
            Some("list") => sources.extend(parse_one_line(&text)),
            _ => {}
        }
    }
    sources
}

/// The source to derive other Debian suites from: the main archive, not the security one, not a stranger's repository.
pub fn debian_mirror(sources: &[Source]) -> Option<&Source> {
    const MAIN_SUITES: [&str; 12] = [
        "stable",
        "oldstable",
        "testing",
        "unstable",
        "sid",
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "trixie-backports",
        "bookworm-backports",
    ];
    sources.iter().find(|s| {
        s.components.iter().any(|c| c == "main")
            && s.suites.iter().any(|suite| MAIN_SUITES.contains(&suite.as_str()))
            && !s.uri.contains("security")
            && !s.uri.starts_with("cdrom:")
    })
}

/// Parses the traditional format: `deb [option=value …] uri suite component…`.
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some(after) = rest.strip_prefix('[') {
        let (options, tail) = after.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|o| o.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = tail;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by,
    })
}

/// Parses the deb822 format of `*.sources` files.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    text.replace('\r', "").split("\n\n").flat_map(stanza).collect()
}

fn stanza(text: &str) -> Vec<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let words = |name: &str| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let enabled = !field("enabled").is_some_and(|v| v.eq_ignore_ascii_case("no"));
    if !enabled || !words("types").iter().any(|t| t == "deb") {
        return Vec::new();
    }
    // An inline key is a block of several lines; only a file name can be handed on.
    let signed_by = field("signed-by")
        .filter(|v| v.starts_with('/'))
        .map(|v| v.split_whitespace().collect::<Vec<_>>().join(","));
    words("uris")
        .into_iter()
        .map(|uri| Source {
            uri,
            suites: words("suites"),
            components: words("components"),
            signed_by: signed_by.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\n\
                          Components: main contrib\nSigned-By: /usr/share/keyrings/a.gpg\n\nTypes: deb\nEnabled: no\n\
                          URIs: http://off.example/debian\nSuites: sid\nComponents: main\n\nTypes: deb\n\
                          URIs: http://other.example/node\nSuites: nodistro\nComponents: main\n";

    #[test]
    fn deb822_stanzas_are_read_and_disabled_ones_are_not() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].signed_by.as_deref(), Some("/usr/share/keyrings/a.gpg"));
        assert_eq!(sources[1].uri, "http://other.example/node");
    }

    #[test]
    fn one_line_sources_with_and_without_options() {
        let sources = parse_one_line(
            "# head\ndeb http://mirror.example/debian trixie main contrib # tail\ndeb-src http://x trixie main\n\
             deb [arch=amd64 signed-by=/k.gpg] https://other.example sid main\ndebris\n",
        );
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[1].signed_by.as_deref(), Some("/k.gpg"));
        assert_eq!(sources[1].suites, ["sid"]);
    }

    #[test]
    fn the_mirror_is_neither_a_strangers_nor_security() {
        let sources = parse_one_line(
            "deb http://other.example/apt cloud main\ndeb http://mirror.example/debian-security bookworm-security main\n\
             deb http://mirror.example/debian bookworm main\n",
        );
        assert_eq!(
            debian_mirror(&sources).map(|s| s.uri.as_str()),
            Some("http://mirror.example/debian")
        );
        assert_eq!(debian_mirror(&sources[..2]), None);
    }
}
