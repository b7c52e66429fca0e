//! Reports about what may be a mail loop, within a limit.

use super::*;

fn submission(n: usize, targets: &[&str]) -> Vec<Submission> {
    vec![Submission {
        original: Bytes::from_static(b"x").into(),
        items: vec![item(n, targets)],
    }]
}

#[tokio::test]
async fn reports_beyond_the_limit_are_dead_letters_and_one_digest_tells_of_them() {
    let (_dir, spool) = fresh();
    let limited = spool.with_report_limit(3);
    for n in 1..=10 {
        let committed = limited.commit("Q", at(n as u64), submission(n, &["a@c.test"]));
        committed.await.expect("committed");
    }
    let due = spool.claim(at(99), 20).await.expect("read");
    assert_eq!(due, [id(1), id(2), id(3)]);
    // Another target has a count of its own, and other mail to the same has none.
    let both = limited.commit("Q", at(11), submission(11, &["a@c.test", "b@c.test"]));
    both.await.expect("committed");
    owe(&spool, 12, &["a@c.test"]).await;
    let due = spool.claim(at(99), 20).await.expect("read");
    assert_eq!(due, [id(12), id(11)]);
    let owed = spool.load(&id(11)).await.expect("loaded");
    assert_eq!(owed.waiting, [address("b@c.test")]);
    let depth = spool.depth().await.expect("read");
    assert_eq!((depth.items, depth.dead), (12, 7));

    assert!(spool.digests(at(3600)).await.expect("read").is_empty());
    let [digest] = &spool.digests(at(3605)).await.expect("read")[..] else {
        panic!("one address, one digest");
    };
    assert_eq!((digest.count, digest.listed[0].item.clone()), (8, id(4)));
    assert!(digest.listed[0].said.contains("mail loop"));
    // An operator has one sent, and an hour later they go by themselves again.
    assert!(
        spool
            .operate(&operator(), Action::Retry, &id(4), at(99))
            .await
            .expect("retried")
    );
    assert_eq!(
        spool.load(&id(4)).await.expect("loaded").waiting,
        [address("a@c.test")]
    );
    let later = limited.commit("Q", at(4000), submission(13, &["a@c.test"]));
    later.await.expect("committed");
    assert!(
        spool
            .claim(at(4000), 20)
            .await
            .expect("read")
            .contains(&id(13))
    );
}

#[tokio::test]
async fn a_dead_letter_that_was_held_is_not_made_due_with_its_message() {
    let (_dir, spool) = fresh();
    let limited = spool.with_report_limit(1);
    for n in 1..=2 {
        let held = limited.reserve("Q", at(0), submission(n, &["a@c.test"]));
        let held = held.await.expect("held");
        held.confirm(Vec::new()).await.expect("released");
    }
    assert_eq!(spool.claim(at(99), 20).await.expect("read"), [id(1)]);
    let depth = spool.depth().await.expect("read");
    assert_eq!((depth.items, depth.dead), (2, 1));
    let held = limited.reserve("Q", at(0), submission(3, &["a@c.test"]));
    held.await.expect("held").cancel().await.expect("withdrawn");
    assert_eq!(spool.depth().await.expect("read").items, 2);
}
