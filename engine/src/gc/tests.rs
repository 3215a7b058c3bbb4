//! Small collections; histories, crashes and races are tried from outside.

use super::*;
use crate::store::Store;
use crate::store::tests::{Home, Writer, known, leaf};

fn collect_keyless(store: &LocalStore) -> GcReport {
    let access = Access::Keyless { store, retention_days_min: 0 };
    collect(access, &GcOptions::default(), &Progress::silent()).unwrap()
}

#[test]
fn who_came_after_the_condemnation_is_not_waited_for() {
    let home = Home::on_disk();
    let store = home.store();
    let writer = store.begin().unwrap();
    writer.put(Writer::new(&*writer).leaves(&["nobody needs this"])).unwrap();
    writer.checkpoint().unwrap();
    drop(writer);
    let older = store.begin().unwrap();
    let first = collect_keyless(&store);
    assert_eq!((first.chunks_condemned, first.waits_for.len(), first.chunks_removed), (1, 1, 0));
    let newer = store.begin().unwrap();
    assert!(!known(&store, leaf("nobody needs this")));
    assert_eq!(collect_keyless(&store).waits_for.len(), 1, "the older one may still use it");
    drop(older);
    // There is always somebody at work: that must not keep space from being freed for ever.
    let last = collect_keyless(&store);
    assert_eq!((last.waits_for.len(), last.chunks_removed, last.packs_removed), (0, 1, 1));
    drop(newer);
    assert_eq!(store.pack_files().unwrap(), []);
}
