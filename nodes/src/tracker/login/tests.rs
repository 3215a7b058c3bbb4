use std::net::IpAddr;
use std::time::Duration;

use twinkeep_engine::env::{Dice, SeededEntropy, Time};

use super::*;
use crate::tracker::event::{COST_MIN, Login};

const ID: AccountId = AccountId([2; 16]);

fn keys(password: &str) -> PasswordKeys {
    derive(password, &PasswordParams { salt: [3; 16], cost: COST_MIN }).unwrap()
}

fn account(password: &str) -> Account {
    let login = Login { login_key: keys(password).login.public(), salt: [3; 16], cost: COST_MIN, wrapped_key: vec![] };
    let name = "Anna".to_owned();
    Account { id: ID, name, login, quota: 0, is_admin: false, disabled: false, key: None, made: Time(0) }
}

#[test]
fn a_password_gives_the_same_keys_and_another_others() {
    let keys_of = |password: &str, salt, cost| {
        let keys = derive(password, &PasswordParams { salt: [salt; 16], cost }).unwrap();
        (keys.login.public(), *keys.wrapping.0)
    };
    let (login, wrapping) = keys_of("secret", 3, COST_MIN);
    assert_eq!(keys_of("secret", 3, COST_MIN), (login, wrapping));
    let more = PasswordCost { passes: 3, ..COST_MIN };
    for other in [keys_of("Secret", 3, COST_MIN), keys_of("secret", 4, COST_MIN), keys_of("secret", 3, more)] {
        assert!(other.0 != login && other.1 != wrapping);
    }
    assert_eq!(blake3::hash(&[login, wrapping].concat()).to_hex()[..32], *"57704362d4979e2f46eb9dade4499933");
}

#[test]
fn bad_passwords_and_costs_are_refused() {
    let params = PasswordParams { salt: [3; 16], cost: COST_MIN };
    assert!(matches!(derive("", &params), Err(LoginError::EmptyPassword)));
    let long = "x".repeat(PASSWORD_LEN_MAX + 1);
    assert!(matches!(derive(&long, &params), Err(LoginError::LongPassword { .. })));
    for cost in [
        PasswordCost { memory_kib: 8, passes: 1, lanes: 1 },
        PasswordCost { memory_kib: u32::MAX, ..COST_MIN },
        PasswordCost { lanes: 0, ..COST_MIN },
        PasswordCost { passes: u32::MAX, ..COST_MIN },
    ] {
        assert!(matches!(derive("secret", &PasswordParams { cost, ..params }), Err(LoginError::Cost(_))), "{cost}");
    }
}

#[test]
fn account_keys_open_for_their_password_and_account_only() {
    let (good, bad) = (keys("secret").wrapping, keys("other").wrapping);
    let sealed = seal_account_key(&good, &ID, &[9; 32], &SeededEntropy::new(1));
    assert_eq!(*open_account_key(&good, &ID, &sealed).unwrap(), [9; 32]);
    assert!(open_account_key(&bad, &ID, &sealed).is_err());
    assert!(open_account_key(&good, &AccountId([3; 16]), &sealed).is_err());
    for place in 0..sealed.len() {
        let mut damaged = sealed;
        damaged[place] ^= 1;
        assert!(open_account_key(&good, &ID, &damaged).is_err(), "byte {place}");
        assert!(open_account_key(&good, &ID, &sealed[..place]).is_err(), "cut at {place}");
    }
    assert!(open_account_key(&good, &ID, &[&sealed[..], &[0]].concat()).is_err());
}

#[test]
fn a_proof_serves_once_for_one_account_machine_and_host() {
    let (node, host) = (NodeKey([4; 32]), NodeKey([5; 32]));
    let challenge = Challenge { challenge: &[6; 32], name: "Anna", node: &node, host: &host };
    let anna = account("secret");
    let login = keys("secret").login;
    let proof = challenge.prove(&login);
    assert!(challenge.verify(Some(&anna), &proof) && challenge.verify_key(&login.public(), &proof));
    assert!(!challenge.verify(None, &proof));
    assert!(!challenge.verify(Some(&account("other")), &proof));
    assert!(!challenge.verify(Some(&Account { disabled: true, ..anna.clone() }), &proof));
    for other in [
        Challenge { challenge: &[7; 32], ..challenge },
        Challenge { name: "anna", ..challenge },
        Challenge { node: &host, ..challenge },
        Challenge { host: &node, ..challenge },
    ] {
        assert!(!other.verify(Some(&anna), &proof), "{other:?}");
    }
    for place in 0..proof.len() {
        let mut bad = proof;
        bad[place] ^= 1;
        assert!(!challenge.verify(Some(&anna), &bad), "byte {place}");
        assert!(!challenge.verify(Some(&anna), &proof[..place]));
    }
}

#[test]
fn unknown_accounts_look_like_others() {
    let anna = account("secret");
    assert_eq!(params(Some(&anna), "Anna", &[1; 32]), PasswordParams { salt: [3; 16], cost: COST_MIN });
    let fake = params(None, "Bert", &[1; 32]);
    assert_eq!(params(None, "bert", &[1; 32]), fake, "stable, and capitals make no difference");
    assert_eq!(fake.cost, PasswordCost::default());
    assert!(params(None, "carl", &[1; 32]).salt != fake.salt && params(None, "bert", &[2; 32]).salt != fake.salt);
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(number.into())
}

#[test]
fn pauses_double_and_end() {
    let mut throttle = Throttle::new();
    let (anna, from) = (Subject::Account(ID), address(1));
    let mut now = secs(5000);
    for pause in [1, 2, 4, 8, 16] {
        throttle.begin(now, anna, from, false).unwrap();
        assert_eq!(throttle.begin(now, anna, from, false), Err(Wait(secs(pause))));
        now += secs(pause);
    }
    throttle.begin(now, anna, from, false).unwrap();
    throttle.succeeded(anna, from, false);
    throttle.begin(now, anna, from, false).unwrap();
    assert_eq!(throttle.begin(now, anna, from, false), Err(Wait(secs(1))));
    assert_eq!(Wait(secs(1)).to_string(), "too many tries: wait 2 s");
    // Another account from there, and the same from elsewhere.
    throttle.begin(now, Subject::new(None, "bert"), from, false).unwrap();
    throttle.begin(now, anna, address(2), false).unwrap();
}

#[test]
fn an_account_is_tried_ten_times_an_hour_wherever_from() {
    let seed = 0x7407;
    let mut dice = Dice(seed);
    let mut throttle = Throttle::new();
    let anna = Subject::Account(ID);
    let mut admitted: Vec<Duration> = Vec::new();
    for second in 0..4 * 3600 {
        let now = secs(second);
        for _ in 0..4 {
            if throttle.begin(now, anna, address(dice.below(100_000) as u32), false).is_ok() {
                admitted.push(now);
            }
        }
        // The true user, at a device of theirs, never waits.
        if second % 50 == 0 {
            throttle.begin(now, anna, address(7), true).unwrap();
            throttle.succeeded(anna, address(7), true);
        }
    }
    let crowded = admitted.windows(11).find(|tries| tries[10] - tries[0] < secs(3600));
    assert_eq!(crowded, None, "seed {seed}");
    assert!(admitted.len() >= 40, "nor are there fewer: {}", admitted.len());
}

#[test]
fn an_address_tries_a_hundred_times_an_hour_whomever() {
    let mut throttle = Throttle::new();
    let mut admitted: Vec<Duration> = Vec::new();
    for second in 0..6 * 3600 {
        let name = format!("user-{second}");
        let subject = Subject::new(None, &name);
        // Logging in oneself in between washes nothing clean.
        if second % 7 == 0 && throttle.begin(secs(second), Subject::Account(ID), address(1), false).is_ok() {
            throttle.succeeded(Subject::Account(ID), address(1), false);
        }
        if throttle.begin(secs(second), subject, address(1), false).is_ok() {
            admitted.push(secs(second));
        }
    }
    assert!(admitted.windows(101).all(|tries| tries[100] - tries[0] >= secs(3600)));
    let first_hour = admitted.iter().filter(|&&at| at < secs(3600)).count();
    assert!((10..30).contains(&first_hour), "pauses count more than the limit: {first_hour}");
}

#[test]
fn a_device_has_limits_of_its_own() {
    let mut throttle = Throttle::new();
    let anna = Subject::Account(ID);
    let tries = (0..4 * 3600).filter(|&second| {
        // From ever other addresses: a stolen device.
        throttle.begin(secs(second), anna, address(second as u32), true).is_ok()
    });
    let tries = tries.count();
    assert!((10..60).contains(&tries), "{tries}");
    // The user from elsewhere does not mind.
    throttle.begin(secs(4 * 3600), anna, address(1), false).unwrap();
}

#[test]
fn memory_is_bounded_and_accounts_are_not_forgotten() {
    let mut throttle = Throttle::new();
    let anna = Subject::Account(ID);
    let mut now = secs(100);
    for number in 0..10 {
        throttle.begin(now, anna, address(number), false).unwrap();
    }
    // Many names from few addresses, then from many.
    let many = (0..20_000).map(|number| (number, number % 2500));
    for (name, from) in many.chain((0..20_000).map(|number| (number, number))) {
        now += Duration::from_millis(10);
        let _ = throttle.begin(now, Subject::new(None, &format!("user-{name}")), address(1 << 20 | from), false);
        assert!(throttle.len() <= 3 * throttle::REMEMBERED_MAX, "{}", throttle.len());
    }
    assert!(throttle.begin(now, anna, address(3), false).is_err(), "the flood washed the tries away");
    assert!(throttle.begin(now, Subject::new(None, "new"), address(5 << 20), false).is_err(), "too many addresses");
    throttle.begin(now, anna, address(5 << 20), true).unwrap();
    // An hour later all is forgiven.
    now += secs(3600);
    throttle.begin(now, anna, address(6 << 20), false).unwrap();
}

#[test]
fn public_networks_count_as_one_address() {
    let mut throttle = Throttle::new();
    let subject = Subject::new(None, "anna");
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    throttle.begin(secs(9), subject, ip("2001:db8::1"), false).unwrap();
    assert!(throttle.begin(secs(9), subject, ip("2001:db8::2"), false).is_err());
    throttle.begin(secs(9), subject, ip("2001:db8:0:1::2"), false).unwrap();
    throttle.begin(secs(9), subject, ip("fe80::1"), false).unwrap();
    throttle.begin(secs(9), subject, ip("fe80::2"), false).unwrap();
    throttle.begin(secs(9), subject, ip("10.0.0.1"), false).unwrap();
    assert!(throttle.begin(secs(9), subject, ip("::ffff:10.0.0.1"), false).is_err());
    assert_eq!(Subject::new(None, "ANNA"), subject);
    assert_eq!(Subject::new(Some(&ID), "ANNA"), Subject::Account(ID));
}
