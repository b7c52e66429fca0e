//! Messages with very many recipients whom nobody knows, and an ordinary message beside them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lab::{
    Client, DOMAIN, DirectoryServer, OUTSIDE, Site, SiteOptions, Slapd, free_port, message,
    setting, user,
};
use super::watched;

/// A name of the MTA itself.
const LOCAL: &str = "mta.example.test";

/// The most anonymous memory of the agent while these pass, in MiB.
const MEMORY: u64 = 192;

/// Sends a message to so many addresses that nobody has; gives the time from the end of the message
/// to its reply.
fn send_to_nobody(server: SocketAddr, name: &str, domain: &str, recipients: usize) -> Duration {
    let mut client = Client::connect_from(OUTSIDE, server);
    client.set_patience(Duration::from_secs(120));
    assert_eq!(client.say("MAIL FROM:<a@elsewhere.test>").code, 250);
    for n in 0..recipients {
        let reply = client.say(&format!("RCPT TO:<{name}-{n}@{domain}>"));
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    assert_eq!(client.say("DATA").code, 354);
    let begun = Instant::now();
    let reply = client.content(&message(&format!("<{name}@elsewhere.test>"), "many"));
    assert_eq!(reply.code, 250, "{reply:?}");
    begun.elapsed()
}

/// Sends one message after another, each to somebody who is not known yet; gives the longest time
/// that one took.
fn send_beside(server: SocketAddr, first: usize, is_over: &AtomicBool) -> (usize, Duration) {
    let mut client = Client::connect_from(OUTSIDE, server);
    client.set_patience(Duration::from_secs(120));
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let content = message(&format!("<{first}-{count}@elsewhere.test>"), "beside");
        let to = user(first + count);
        let reply = client.send_message("a@elsewhere.test", &[&to], &content);
        assert_eq!(reply.code, 250, "{reply:?}");
        longest = longest.max(begun.elapsed());
        count += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    (count, longest)
}

#[test]
fn many_unknown_recipients_cost_little_and_delay_no_mail() {
    let _alone = crate::alone();
    let messages: usize = setting("UNKNOWN_MESSAGES", 4);
    let recipients: usize = setting("UNKNOWN_RECIPIENTS", 5000);
    let port = free_port();
    let mail = super::lab::SmtpSink::start();
    let mut site = Site::<Slapd>::start_as(
        Slapd::start(6000),
        SiteOptions {
            postfix: vec![
                format!("smtpd_recipient_limit = {}", recipients + 1),
                // What becomes of the mail is of no interest here, and costs much.
                "defer_transports = smtp".to_owned(),
            ],
            lines: &format!(
                "[[hook.smtp]]\nlisten = \"127.0.0.1:{port}\"\nnext_hop = \"{}\"\n",
                mail.address()
            ),
            ..SiteOptions::default()
        },
    );
    let config = site
        .config
        .replacen(
            "[organization]\n",
            &format!("[organization]\nlocal_domains = [\"{LOCAL}\"]\n"),
            1,
        )
        // One that the lab's directory has an index for.
        .replacen(
            "[directory]\n",
            "[directory]\nlogin_attributes = [\"userPrincipalName\"]\n",
            1,
        );
    site.copyist.write_config(&config);
    site.copyist.restart();
    let listener = SocketAddr::from(([127, 0, 0, 1], port));
    let ways = [
        ("milter", site.postfix.smtp_addr(), DOMAIN, recipients),
        ("listener", listener, DOMAIN, recipients),
        // Each may be several other addresses, and a login name.
        ("local domain", listener, LOCAL, recipients / 10),
    ];
    for (at, (way, server, domain, recipients)) in ways.into_iter().enumerate() {
        let is_over = AtomicBool::new(false);
        let begun = Instant::now();
        let ((longest, (beside, waited)), memory, _) = watched(&site.copyist, || {
            std::thread::scope(|scope| {
                let beside = scope.spawn(|| send_beside(server, 2000 * at, &is_over));
                let sending: Vec<_> = (0..messages)
                    .map(|n| {
                        let name = format!("{at}-{n}");
                        scope.spawn(move || send_to_nobody(server, &name, domain, recipients))
                    })
                    .collect();
                let took: Vec<_> = sending
                    .into_iter()
                    .map(std::thread::ScopedJoinHandle::join)
                    .collect();
                is_over.store(true, Ordering::Relaxed);
                let longest = took.into_iter().map(|one| one.expect("sent")).max();
                (
                    longest.expect("there are messages"),
                    beside.join().expect("sent"),
                )
            })
        });
        println!(
            "{way}: {messages} messages to {recipients} addresses that nobody has, in {:.1?}; {longest:.1?} after the end of \
             the message at most; {memory} MiB of anonymous memory at most; {beside} ordinary messages beside took {waited:.1?} at most",
            begun.elapsed()
        );
        assert!(memory <= MEMORY, "{way}: {memory} MiB");
    }
}
