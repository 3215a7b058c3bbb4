use super::*;
use crate::host::ground::Folder;
use crate::host::setup::{self, HostOptions};
use crate::work::Work;
use twinkeep_engine::crypto::VaultKeys;
use twinkeep_engine::env::Env;
use twinkeep_engine::vault::{CreateOptions, Vault};

#[test]
fn a_change_that_comes_second_is_not_taken_and_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (data, env) = (folder.path().join("host"), Env::system(1));
    let options = HostOptions {
        name: "tower".into(),
        listen: "127.0.0.1:0".into(),
        addresses: vec!["127.0.0.1:1".into()],
        machine_id: [1; 16],
    };
    setup::init(&data, &env, &options).unwrap();
    let identity = setup::load(&data).unwrap();
    let host = Host::open(Box::new(Folder(data)), env.clone(), Work::Here, identity).unwrap();
    let prepared = Vault::prepare(&env, &CreateOptions::default(), &[]).unwrap();
    let vault = host.vault(host.make_vault(&prepared.head).unwrap()).unwrap();
    let keys = VaultKeys::derive(&prepared.secret, prepared.vault);
    let mut end = None;
    let looked = vault.store.append(&mut |here| {
        end = Some(here);
        None
    });
    assert!(looked.unwrap().is_none());
    let link = ChainLink { received: Some(env.clock.now()), ..end.unwrap() };
    // Two members of a vault say something at the same moment, each behind the same record.
    let say = |note: &str| {
        let change = ChangeRecord { records: Vec::new(), note: note.to_owned(), kind: ChangeKind::ClockIsRight };
        let record = Record {
            kind: RecordKind::Change,
            vault: prepared.vault,
            count: link.count,
            received: link.received.unwrap(),
            previous: link.previous,
            payload: change.encode(),
        };
        append(&host, &vault, link, RecordKind::Change, &record.encode(&|bytes| keys.record_mac(bytes)))
    };
    assert!(say("the first").unwrap());
    assert!(!say("the second").unwrap(), "it is told to look where the chain ends now");
}
