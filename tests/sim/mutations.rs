//! The patches of `tests/sim/mutations` still apply. Whether the simulator finds what they break is
//! looked at by `make mutations`.

use std::fs;
use std::path::Path;

/// A hunk of a unified diff: the line where it begins, from 1, and the lines that must be there.
#[derive(Debug)]
struct Hunk {
    file: String,
    line: usize,
    old: Vec<String>,
}

fn hunks(patch: &str) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    let mut file = String::new();
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            file = name.to_owned();
        } else if let Some(place) = line.strip_prefix("@@ -") {
            let number = place.split([',', ' ']).next().and_then(|number| number.parse().ok());
            let line = number.expect("a hunk says where it begins");
            hunks.push(Hunk { file: file.clone(), line, old: Vec::new() });
        } else if let Some(hunk) = hunks.last_mut()
            && !line.starts_with("+++ ")
            && let Some(old) = line.strip_prefix([' ', '-'])
        {
            hunk.old.push(old.to_owned());
        }
    }
    hunks
}

#[test]
fn every_mutation_still_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = fs::read_dir(root.join("tests/sim/mutations")).expect("the folder is there");
    let mut count = 0;
    for entry in folder {
        let path = entry.expect("it can be read").path();
        let patch = fs::read_to_string(&path).expect("it is a text");
        let found = patch.lines().nth(1).and_then(|line| line.strip_prefix("# Found within "));
        let seeds = found.and_then(|rest| rest.strip_suffix(" seeds."));
        let seeds = seeds.and_then(|seeds| seeds.parse::<u64>().ok());
        assert!(
            seeds.is_some_and(|seeds| seeds > 0),
            "{path:?} does not say within how many seeds"
        );
        let hunks = hunks(&patch);
        assert!(!hunks.is_empty(), "{path:?} has no hunk");
        for hunk in hunks {
            let text = fs::read_to_string(root.join(&hunk.file)).expect("the file is there");
            let lines: Vec<&str> = text.lines().collect();
            // Its lines may have moved; `patch` looks for them as well.
            let near = lines.windows(hunk.old.len()).any(|at| hunk.old.iter().eq(at));
            assert!(near, "{path:?} does not apply any more: {} line {}", hunk.file, hunk.line);
        }
        count += 1;
    }
    assert!(count >= 20, "there are {count} mutations");
}
