//! What is kept and what is forgotten, from outside.

use serde_json::Value;
use twinkeep_tests::home::{Home, Ran, words};

/// A person with a folder `docs` and a vault, who types lines.
struct Keeper(Home);

impl Keeper {
    fn new() -> Self {
        let home = Home::new();
        home.write("docs/a", "hello");
        Self(home)
    }

    /// Runs and expects an exit code.
    fn expect(&self, code: i32, line: &str) -> Ran {
        self.0.expect(code, &words(line))
    }

    fn json(&self, line: &str) -> Vec<Value> {
        self.0.json(&words(line))
    }

    /// Short ids, from old to new.
    fn ids(&self, line: &str) -> Vec<String> {
        let id = |message: &Value| message["short_id"].as_str().unwrap().to_owned();
        self.json(line).iter().map(id).collect()
    }

    fn with_snapshots(count: usize) -> (Self, Vec<String>) {
        let home = Self::new();
        for _ in 0..count {
            home.expect(0, "backup docs");
        }
        let ids = home.ids("snapshots");
        (home, ids)
    }
}

#[test]
fn forgetting_is_shown_done_and_undone() {
    let (home, ids) = Keeper::with_snapshots(4);
    let dry = home.expect(0, "forget -l 2 --dry-run");
    assert!(dry.out.contains("would forget 2 snapshots, keep 2") && dry.out.contains("last 1 of 2"), "{}", dry.out);
    assert_eq!(home.ids("snapshots"), ids);
    let decisions = home.json("forget --keep-last 2 --keep-within 1h --dry-run");
    assert!(decisions[..4].iter().all(|one| one["message_type"] == "decision" && one["keep"] == true));
    assert_eq!(decisions[3]["reasons"][1], "within 1h");

    let done = home.expect(0, "forget -l 2");
    assert!(done.out.contains("forgot 2") && done.out.contains("undelete"), "{}", done.out);
    assert_eq!((home.ids("snapshots"), home.ids("snapshots --forgotten")), (ids[2..].to_vec(), ids[..2].to_vec()));
    let shown = home.expect(0, "snapshots --forgotten").out;
    assert!(shown.contains("until 2"), "{shown}");
    // What is forgotten is still there for who names it.
    let listed = home.expect(0, &format!("ls {}", ids[0]));
    assert!(listed.err.contains("is forgotten"), "{}", listed.err);
    home.expect(0, &format!("restore {} --target back", ids[0]));
    assert!(home.expect(1, &format!("pin {}", ids[0])).err.contains("no snapshot"), "only what is wanted is pinned");

    assert!(home.expect(1, &format!("undelete {}", ids[3])).err.contains("is not forgotten"));
    home.expect(2, "undelete latest");
    home.expect(2, "undelete");
    home.expect(0, &format!("undelete {}", ids[1]));
    assert_eq!(home.ids("snapshots"), ids[1..]);
    assert_eq!(home.json("undelete --all")[0]["undeleted"].as_array().unwrap().len(), 1);
    assert_eq!(home.ids("snapshots"), ids);
    assert!(home.expect(0, &format!("forget {} latest", ids[0])).out.contains("forgot 2"));
    assert_eq!(home.ids("snapshots"), ids[1..3]);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (home, ids) = Keeper::with_snapshots(2);
    home.expect(0, "backup docs --host other --tag keep");
    let all = home.ids("snapshots");
    let refused = home.expect(1, "forget --keep-tag keep");
    assert!(refused.err.contains("would keep nothing of host ") && refused.err.contains("hint: "), "{}", refused.err);
    home.expect(1, "forget --keep-tag kepe --dry-run");
    assert!(home.expect(2, "forget").err.contains("what to keep"));
    for line in
        ["forget -l 0", "forget -l x", "forget --keep-within 3", "forget --keep-tag ,", "forget -l 1 --group-by hots"]
    {
        home.expect(2, line);
    }
    home.expect(2, &format!("forget -l 1 {}", ids[0]));
    home.expect(2, &format!("forget {}:docs", ids[0]));
    home.expect(1, "forget 00000000");
    assert_eq!(home.ids("snapshots"), all);
    // Only what matches takes part.
    home.expect(0, "forget --keep-tag keep --host other");
    assert_eq!(home.ids("snapshots"), all);
    home.expect(0, "forget -l 1 --group-by ''");
    assert_eq!(home.ids("snapshots"), all[2..]);
}

#[test]
fn pins_and_tags_are_given_and_taken() {
    let home = Keeper::new();
    home.expect(0, "backup docs --pin");
    home.expect(0, "backup docs --tag a,b");
    home.expect(0, "backup docs");
    let ids = home.ids("snapshots");
    let marks: Vec<bool> = home.json("snapshots").iter().map(|one| one["pinned"] == true).collect();
    assert_eq!(marks, [true, false, false]);
    assert!(home.expect(0, "snapshots").out.contains("pinned"));
    let refused = home.expect(13, &format!("forget {}", ids[0]));
    assert!(refused.err.contains("pinned") && refused.err.contains("pin --remove"), "{}", refused.err);
    home.expect(13, &format!("forget {} --dry-run", ids[0]));
    home.expect(0, "forget -l 1");
    assert_eq!(home.ids("snapshots"), [&ids[..1], &ids[2..]].concat());
    home.expect(0, &format!("pin --remove {}", ids[0]));
    home.expect(0, "pin latest");
    home.expect(0, "undelete --all");
    home.expect(0, &format!("forget {} {}", ids[0], ids[1]));
    assert_eq!(home.ids("snapshots"), ids[2..]);
    home.expect(0, "undelete --all");

    let tags = |at: usize| home.json("snapshots")[at]["tags"].to_string();
    home.expect(2, "tag --add x");
    home.expect(2, "tag latest");
    home.expect(0, "tag --add x,y --remove a --tag b");
    assert_eq!((tags(0), tags(1)), ("[]".to_owned(), r#"["b","x","y"]"#.to_owned()));
    home.expect(0, &format!("tag --set z {} latest", ids[1]));
    assert_eq!((tags(1), tags(2)), (r#"["z"]"#.to_owned(), r#"["z"]"#.to_owned()));
    home.expect(0, "tag --set '' latest");
    assert_eq!(tags(2), "[]");
    assert_eq!(home.ids("snapshots --tag z"), ids[1..2]);
}

#[test]
fn settings_are_shown_and_changed() {
    let home = Keeper::new();
    home.expect(2, "init --retention-days 40000");
    home.expect(0, "init --retention-days 2 --undelete-days 0");
    home.expect(0, "backup docs");
    let config = home.json("config").remove(0);
    assert_eq!((config["retention_days"].as_u64(), config["undelete_days"].as_u64()), (Some(2), Some(0)));
    let refused = home.expect(13, "forget latest");
    assert!(refused.err.contains("minimum retention of 2 days"), "{}", refused.err);
    home.expect(2, "config --retention-days 3");
    home.expect(0, "config --retention-days 3 --undelete-days 5 --compression 7 --yes");
    assert!(home.expect(13, "config --retention-days 1 --yes").err.contains("nothing makes it shorter"));
    let config = home.json("config").remove(0);
    assert_eq!((config["retention_days"].as_u64(), config["undelete_days"].as_u64()), (Some(3), Some(5)));
    assert_eq!(config["compression"], 7);
    home.expect(0, "backup docs");
    home.expect(0, "forget -l 1");
    assert_eq!(home.ids("snapshots").len(), 2);
    home.expect(0, "check --read-data");
}

#[test]
fn a_window_of_no_days_is_none() {
    let home = Keeper::new();
    home.expect(0, "init --undelete-days 0");
    for _ in 0..3 {
        home.expect(0, "backup docs");
    }
    let ids = home.ids("snapshots");
    assert!(home.expect(0, "forget -l 1").out.contains("for good"));
    assert_eq!(home.ids("snapshots --forgotten"), [""; 0]);
    assert!(home.expect(1, &format!("undelete {}", ids[0])).err.contains("was purged"));
    assert!(home.expect(0, "forget --clock-is-right").out.contains("has not jumped"));
    // What nobody can bring back is freed at once.
    let dry = home.expect(0, "forget -l 1 --prune --dry-run").out;
    assert!(dry.contains("would free"), "{dry}");
    assert!(!home.expect(0, "gc --dry-run").err.contains("would go first"), "the window is over at once and purged");
    home.0.write("docs/a", "hello again");
    home.expect(0, "backup docs");
    let pruned = home.expect(0, "forget -l 1 --prune").out;
    assert!(pruned.contains("forgot 1") && pruned.contains("removed ") && !pruned.contains("removed 0"), "{pruned}");
    home.expect(0, "check --read-data");
}
