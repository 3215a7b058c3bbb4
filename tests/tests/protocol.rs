//! The protocol of gc beside backups, tried in every order: see `protocol` in the library.
use twinkeep_tests::protocol::{Rule, Rules, SCENARIOS, search};

#[test]
fn explore() {
    for s in SCENARIOS {
        let t = std::time::Instant::now();
        let f = search(s.start(), Rules::all(), 3_000_000, &mut |_| ());
        println!("{}: {} states cut {} in {:?}", s.name, f.states, f.is_cut_short, t.elapsed());
        for w in f.ways.iter().flatten() {
            println!("  {:?}\n    {}", w.problem, w.steps.join("\n    "));
        }
    }
    for rule in Rule::ALL {
        let mut text = String::new();
        for s in SCENARIOS {
            let f = search(s.start(), Rules::all().without(rule), 3_000_000, &mut |_| ());
            if f.worst().is_some() {
                text += &format!(
                    " [{}: {:?}]",
                    s.name,
                    f.ways.iter().flatten().map(|w| (w.problem, w.steps.len())).collect::<Vec<_>>()
                );
            }
        }
        println!("{rule:?}: {text}");
    }
}
