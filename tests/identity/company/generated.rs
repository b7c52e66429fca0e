//! A company made at random: its people, contacts and groups, what its postmaster wrote, and the
//! mail of a day.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use crate::lab::Chance;

/// The organization's main domain.
pub(crate) const MAIN: &str = "example.test";
/// A host name of the MTA, at which local(8) delivers.
pub(crate) const LOCAL: &str = "mx.example.test";
/// The domains of the organization.
pub(crate) const DOMAINS: [&str; 5] = [MAIN, "second.test", "sister.test", "old.test", SUBSCRIBERS];
/// The domain of those who only get what goes to everybody.
const SUBSCRIBERS: &str = "subscribers.test";
const BASE: &str = "dc=example,dc=test";
const ATTRIBUTES: [&str; 3] = [
    "copyistInboundJournal",
    "copyistOutboundJournal",
    "copyistInternalJournal",
];
/// The people, of whom each has a login name and addresses.
const PEOPLE: usize = 2000;
const GROUPS: usize = 300;
const CONTACTS: usize = 60;
const ALIASES: usize = 500;

/// How large the company is beyond its people.
pub(crate) struct Size {
    /// Members of the group of everybody; those that are no people of the company are subscribers
    /// without a mailbox.
    pub(crate) everybody: usize,
    /// Messages of the day.
    pub(crate) messages: usize,
}

/// The content that servers are started with.
#[derive(Default)]
pub(crate) struct Company {
    /// All entries below those that the server has from the start.
    pub(crate) ldif: String,
    /// `virtual_alias_maps`, as the postmaster wrote it.
    pub(crate) aliases: String,
    /// Directory values as Postfix needs them: forwarding, and the groups that its LDAP client
    /// cannot follow.
    pub(crate) from_directory: String,
    /// `alias_maps`.
    pub(crate) local_aliases: String,
    pub(crate) sender_canonical: String,
    pub(crate) recipient_canonical: String,
    pub(crate) canonical: String,
    pub(crate) mail: Vec<Mail>,
}

/// From where a message is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    Outside,
    /// A trusted network.
    Inside,
    /// Authenticated with this name.
    Login(String),
}

/// One message of the day.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    pub(crate) from: From,
    pub(crate) sender: String,
    /// The author in its header.
    pub(crate) author: String,
    pub(crate) recipients: Vec<String>,
}

/// A group as it was made.
#[derive(Clone)]
struct Group {
    kind: Kind,
    people: Vec<usize>,
    contacts: Vec<usize>,
    groups: Vec<usize>,
    is_exempt: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Names,
    UniqueNames,
    Posix,
    Urls,
}

struct Maker {
    chance: Chance,
    groups: Vec<Group>,
    /// Where people forward to.
    forwarding: BTreeMap<usize, String>,
    /// People whose address the postmaster sends elsewhere.
    redirected: BTreeSet<usize>,
    exempt: BTreeSet<usize>,
    /// Aliases of one person, by which that person may send.
    own_aliases: Vec<String>,
    /// Aliases of several.
    lists: Vec<String>,
    company: Company,
}

fn mail(person: usize) -> String {
    format!("p{person}@{MAIN}")
}

fn login(person: usize) -> String {
    format!("login{person}")
}

/// Every address of a person, and the names of the mailbox on the MTA itself.
fn names(person: usize) -> Vec<String> {
    let mut all = vec![
        mail(person),
        format!("user.{person}@{MAIN}"),
        format!("p{person}@{LOCAL}"),
        format!("{}@{LOCAL}", login(person)),
    ];
    if person.is_multiple_of(10) {
        all.push(format!("p{person}@second.test"));
    }
    all
}

fn person_dn(person: usize) -> String {
    format!("uid={},ou=people,{BASE}", login(person))
}

fn contact(contact: usize) -> String {
    match is_listed(contact) {
        true => format!("c{contact}@{MAIN}"),
        false => format!("c{contact}@customer.test"),
    }
}

/// Whether a contact has an address of ours, from which mail goes on to the outside.
fn is_listed(contact: usize) -> bool {
    contact.is_multiple_of(6)
}

fn contact_dn(contact: usize) -> String {
    format!("cn=c{contact},ou=contacts,{BASE}")
}

fn group(group: usize) -> String {
    format!("g{group}@{MAIN}")
}

fn group_dn(group: usize) -> String {
    format!("cn=g{group},ou=groups,{BASE}")
}

impl Company {
    /// The company of this seed.
    pub(crate) fn new(chance: Chance, size: &Size) -> Company {
        let mut maker = Maker {
            chance,
            groups: Vec::new(),
            forwarding: BTreeMap::new(),
            redirected: BTreeSet::new(),
            exempt: BTreeSet::new(),
            own_aliases: Vec::new(),
            lists: Vec::new(),
            company: Company::default(),
        };
        let ldif = &mut maker.company.ldif;
        for unit in ["contacts", "groups", "subscribers"] {
            let _ = writeln!(
                ldif,
                "dn: ou={unit},{BASE}\nchangetype: add\nobjectClass: organizationalUnit\nou: {unit}\n"
            );
        }
        maker.choose();
        for person in 0..PEOPLE {
            maker.add_person(person);
        }
        for contact in 0..CONTACTS {
            maker.add_contact(contact);
        }
        maker.choose_groups();
        for n in 0..maker.groups.len() {
            maker.add_group(n);
        }
        maker.add_everybody(size.everybody);
        maker.write_aliases();
        maker.write_local_aliases();
        maker.write_canonical();
        let from = &mut maker.company.from_directory;
        let _ = writeln!(from, "@sister.test @{MAIN}");
        for (person, to) in &maker.forwarding {
            for name in names(*person) {
                let _ = writeln!(from, "{name} {name}, {to}");
            }
        }
        for listed in (0..CONTACTS).filter(|contact| is_listed(*contact)) {
            let _ = writeln!(from, "{} x{listed}@customer.test", contact(listed));
        }
        maker.write_mail(size.messages);
        maker.company
    }
}

impl Maker {
    fn flip(&mut self, of: usize) -> bool {
        self.chance.below(of) == 0
    }

    fn person(&mut self) -> usize {
        self.chance.below(PEOPLE)
    }

    /// A person whose address leads nowhere else.
    fn plain_person(&mut self) -> usize {
        loop {
            let person = self.person();
            if !self.forwarding.contains_key(&person) && !self.redirected.contains(&person) {
                return person;
            }
        }
    }

    fn outsider(&mut self) -> String {
        format!("o{}@customer.test", self.chance.below(50))
    }

    fn journal_address(&mut self) -> String {
        format!("journal-{}@archive.test", self.chance.below(10))
    }

    /// One of the addresses of a person.
    fn address_of(&mut self, person: usize) -> String {
        match self.chance.below(4) {
            0 => format!("user.{person}@{MAIN}"),
            1 if person.is_multiple_of(10) => format!("p{person}@second.test"),
            _ => mail(person),
        }
    }

    fn in_another_case(&mut self, address: String) -> String {
        match self.chance.below(6) {
            0 => address.to_uppercase(),
            1 => address.replace("test", "Test"),
            _ => address,
        }
    }

    fn choose(&mut self) {
        for person in 0..PEOPLE {
            if self.flip(20) {
                self.exempt.insert(person);
            }
            if self.flip(40) {
                let to = match self.chance.below(3) {
                    0 => self.outsider(),
                    _ => {
                        let other = self.person();
                        self.address_of(other)
                    }
                };
                self.forwarding.insert(person, to);
            } else if self.flip(60) {
                self.redirected.insert(person);
            }
        }
    }

    fn add_person(&mut self, person: usize) {
        let mut text = format!(
            "dn: {}\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: exchangeRecipient\n\
             objectClass: copyistJournaledObject\nuid: {}\ncn: Person {person}\nsn: {person}\nmail: {}\n\
             proxyAddresses: SMTP:{}\nproxyAddresses: smtp:user.{person}@{MAIN}\n",
            person_dn(person),
            login(person),
            mail(person),
            mail(person)
        );
        if person.is_multiple_of(10) {
            let _ = writeln!(text, "proxyAddresses: smtp:p{person}@second.test");
        }
        if self.flip(3) {
            let mut some = false;
            for attribute in ATTRIBUTES {
                if self.flip(4) && some {
                    continue;
                }
                some = true;
                let first = self.journal_address();
                let _ = writeln!(text, "{attribute}: {first}");
                let second = self.journal_address();
                if self.flip(8) && second != first {
                    let _ = writeln!(text, "{attribute}: {second}");
                }
            }
        }
        if self.exempt.contains(&person) {
            text.push_str("extensionAttribute11: TRUE\n");
        }
        if let Some(to) = self.forwarding.get(&person) {
            let _ = writeln!(text, "mailForwardingAddress: {to}");
        }
        self.company.ldif += &text;
        self.company.ldif.push('\n');
    }

    fn add_contact(&mut self, number: usize) {
        let mut text = format!(
            "dn: {}\nchangetype: add\nobjectClass: device\nobjectClass: exchangeRecipient\n\
             objectClass: copyistJournaledObject\ncn: c{number}\nmail: {}\n",
            contact_dn(number),
            contact(number)
        );
        if is_listed(number) {
            let _ = writeln!(text, "targetAddress: SMTP:x{number}@customer.test");
        } else if self.flip(3) {
            let _ = writeln!(text, "targetAddress: SMTP:{}", contact(number));
        }
        if self.flip(4) && !is_listed(number) {
            let journal = self.journal_address();
            let _ = writeln!(text, "copyistOutboundJournal: {journal}");
        }
        self.company.ldif += &text;
        self.company.ldif.push('\n');
    }

    fn choose_groups(&mut self) {
        for _ in 0..GROUPS {
            let kind = match self.chance.below(10) {
                0..5 => Kind::Names,
                5..7 => Kind::UniqueNames,
                7 => Kind::Posix,
                _ => Kind::Urls,
            };
            // Somebody in it is not exempt, so that no group is exempt by chance.
            let mut people = vec![];
            while people.is_empty() {
                let person = self.person();
                people.extend((!self.exempt.contains(&person)).then_some(person));
            }
            for _ in 0..self.chance.below(8) {
                let person = self.person();
                people.push(person);
            }
            people.sort_unstable();
            people.dedup();
            let (mut contacts, mut groups) = (Vec::new(), Vec::new());
            if matches!(kind, Kind::Names | Kind::UniqueNames) {
                if self.flip(5) {
                    contacts.push(self.chance.below(CONTACTS));
                }
                // Mostly of those before it, so that few are in a circle.
                for _ in 0..self.chance.below(3) {
                    let before = self.groups.len();
                    let of = if self.flip(8) { GROUPS } else { before };
                    if of > 0 {
                        groups.push(self.chance.below(of));
                    }
                }
                groups.sort_unstable();
                groups.dedup();
            }
            self.groups.push(Group {
                kind,
                people,
                contacts,
                groups,
                is_exempt: false,
            });
        }
        let exempt: Vec<usize> = self.exempt.iter().copied().collect();
        for n in 0..8 {
            let mut people: Vec<usize> = (0..3)
                .map(|_| exempt[self.chance.below(exempt.len())])
                .filter(|person| !self.forwarding.contains_key(person))
                .filter(|person| !self.redirected.contains(person))
                .collect();
            if people.is_empty() || n % 4 == 1 {
                people.push(self.plain_person());
            }
            people.sort_unstable();
            people.dedup();
            let contacts = if n % 4 == 3 { vec![1] } else { vec![] };
            self.groups.push(Group {
                kind: Kind::Names,
                people,
                contacts,
                groups: vec![],
                is_exempt: n % 4 != 2,
            });
        }
    }

    /// Whether Postfix's LDAP client can follow a group: it has no patience with circles.
    fn is_followed(&self, group: usize) -> bool {
        fn goes_round(maker: &Maker, group: usize, way: &mut Vec<usize>) -> bool {
            if way.contains(&group) {
                return true;
            }
            way.push(group);
            let inner = &maker.groups[group].groups;
            let found = inner.iter().any(|one| goes_round(maker, *one, way));
            way.pop();
            found
        }
        matches!(self.groups[group].kind, Kind::Names | Kind::UniqueNames)
            && !goes_round(self, group, &mut Vec::new())
    }

    /// The addresses of all members, through groups.
    fn flattened(&self, group: usize) -> BTreeSet<String> {
        let (mut seen, mut waiting) = (HashSet::new(), vec![group]);
        let mut all = BTreeSet::new();
        while let Some(next) = waiting.pop() {
            if !seen.insert(next) {
                continue;
            }
            let of = &self.groups[next];
            all.extend(of.people.iter().copied().map(mail));
            all.extend(of.contacts.iter().copied().map(contact));
            waiting.extend(&of.groups);
        }
        all
    }

    fn add_group(&mut self, number: usize) {
        let of = self.groups[number].clone();
        let class = match of.kind {
            Kind::Names => "groupOfNames",
            Kind::UniqueNames => "groupOfUniqueNames",
            Kind::Posix => "posixGroup",
            Kind::Urls => "groupOfURLs",
        };
        let mut text = format!(
            "dn: {}\nchangetype: add\nobjectClass: {class}\nobjectClass: exchangeRecipient\ncn: g{number}\nmail: {}\n\
             proxyAddresses: SMTP:{}\nproxyAddresses: smtp:team-{number}@{MAIN}\n",
            group_dn(number),
            group(number),
            group(number)
        );
        if of.is_exempt {
            text.push_str("extensionAttribute11: TRUE\n");
        }
        let people = of.people.iter().copied();
        match of.kind {
            Kind::Names | Kind::UniqueNames => {
                let name = match of.kind {
                    Kind::Names => "member",
                    _ => "uniqueMember",
                };
                let contacts = of.contacts.iter().copied().map(contact_dn);
                let groups = of.groups.iter().copied().map(group_dn);
                for dn in people.map(person_dn).chain(contacts).chain(groups) {
                    let dn = if self.flip(10) {
                        dn.replace(",ou=", ", OU=")
                    } else {
                        dn
                    };
                    let _ = writeln!(text, "{name}: {dn}");
                }
            }
            Kind::Posix => {
                let _ = writeln!(text, "gidNumber: {}", 1000 + number);
                for person in people {
                    let _ = writeln!(text, "memberUid: {}", login(person));
                }
            }
            Kind::Urls => {
                let terms: String = people
                    .map(|person| format!("(uid={})", login(person)))
                    .collect();
                let _ = writeln!(text, "memberURL: ldap:///ou=people,{BASE}??sub?(|{terms})");
            }
        }
        self.company.ldif += &text;
        self.company.ldif.push('\n');
        if !self.is_followed(number) {
            let all: Vec<String> = self.flattened(number).into_iter().collect();
            self.write_group(&[group(number), format!("team-{number}@{MAIN}")], &all);
        }
    }

    fn write_group(&mut self, names: &[String], members: &[String]) {
        let members = members.join(", ");
        for name in names {
            let _ = writeln!(self.company.from_directory, "{name} {members}");
        }
    }

    fn add_everybody(&mut self, members: usize) {
        let ldif = &mut self.company.ldif;
        for number in PEOPLE..members {
            let _ = writeln!(
                ldif,
                "dn: uid=s{number},ou=subscribers,{BASE}\nchangetype: add\nobjectClass: account\n\
                 objectClass: exchangeRecipient\nuid: s{number}\nmail: s{number}@{SUBSCRIBERS}\n"
            );
        }
        let _ = writeln!(
            ldif,
            "dn: cn=everybody,ou=groups,{BASE}\nchangetype: add\nobjectClass: groupOfNames\n\
             objectClass: exchangeRecipient\ncn: everybody\nmail: everybody@{MAIN}"
        );
        // Every other of the people, so that somebody is not in it.
        let people = (0..PEOPLE).filter(|person| person % 2 == 0);
        let people: Vec<usize> = people.collect();
        for person in &people {
            let _ = writeln!(ldif, "member: {}", person_dn(*person));
        }
        for number in PEOPLE..members {
            let _ = writeln!(ldif, "member: uid=s{number},ou=subscribers,{BASE}");
        }
        let contacts = [1, 2, 3, 6];
        for number in contacts {
            let _ = writeln!(ldif, "member: {}", contact_dn(number));
        }
        let _ = writeln!(ldif, "member: {}\n", group_dn(0));
        let mut all: BTreeSet<String> = people.into_iter().map(mail).collect();
        all.extend((PEOPLE..members).map(|number| format!("s{number}@{SUBSCRIBERS}")));
        all.extend(contacts.map(contact));
        all.extend(self.flattened(0));
        // Postfix takes minutes for one value of a megabyte.
        let all: Vec<String> = all.into_iter().collect();
        let mut parts = Vec::new();
        for (n, some) in all.chunks(500).enumerate() {
            let part = format!("everybody-{n}@{SUBSCRIBERS}");
            self.write_group(std::slice::from_ref(&part), some);
            parts.push(part);
        }
        self.write_group(&[format!("everybody@{MAIN}")], &parts);
    }

    /// Returns an alias's target; `below` is the number of aliases that it may name.
    fn target(&mut self, below: usize) -> String {
        let target = match self.chance.below(12) {
            0 => self.outsider(),
            1 => group(self.chance.below(GROUPS)),
            2 | 3 if below > 0 => format!("a{}@{MAIN}", self.chance.below(below)),
            4 => format!("loc{}@{LOCAL}", self.chance.below(40)),
            5 => {
                let person = self.person();
                format!("p{person}+x@{MAIN}")
            }
            6 => {
                let person = self.person();
                format!("{}@{LOCAL}", login(person))
            }
            _ => {
                let person = self.person();
                self.address_of(person)
            }
        };
        self.in_another_case(target)
    }

    fn write_aliases(&mut self) {
        let mut text = String::from("# made at random\n@old.test @example.test\n");
        for n in 0..ALIASES {
            let name = format!("a{n}@{MAIN}");
            if n % 10 == 0 {
                let person = self.plain_person();
                let address = self.address_of(person);
                let _ = writeln!(text, "{name} {address}");
                self.own_aliases.push(name);
                continue;
            }
            let count = usize::from(n % 10 == 1) + 1 + self.chance.below(4);
            let mut targets: Vec<String> = Vec::new();
            while targets.len() < count {
                let target = self.target(n);
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
            let key = match self.chance.below(10) {
                // Of every domain that the MTA takes for its own.
                0 => format!("a{n}"),
                _ => name.clone(),
            };
            let _ = writeln!(text, "{key} {}", targets.join(", "));
            if n % 10 == 1 {
                self.lists.push(name);
            }
        }
        for person in self.redirected.clone() {
            let other = self.plain_person();
            let other = self.address_of(other);
            let _ = match self.flip(2) {
                true => writeln!(text, "{} {other}", mail(person)),
                false => writeln!(text, "{} {other}, {}", mail(person), mail(person)),
            };
        }
        self.company.aliases = text;
    }

    fn write_local_aliases(&mut self) {
        let mut text = String::from("# made at random\n");
        for n in 0..40 {
            let count = 1 + self.chance.below(3);
            let mut targets = Vec::new();
            for _ in 0..count {
                targets.push(match self.chance.below(6) {
                    0 => self.outsider(),
                    1 => group(self.chance.below(GROUPS)),
                    2 if n > 0 => format!("loc{}@{LOCAL}", self.chance.below(n)),
                    // Postfix delivers there at once, past what the directory says of forwarding.
                    3 => format!("{}@{LOCAL}", login(self.plain_person())),
                    _ => {
                        let person = self.person();
                        self.address_of(person)
                    }
                });
            }
            targets.sort();
            targets.dedup();
            let _ = writeln!(text, "loc{n}: {}", targets.join(", "));
        }
        self.company.local_aliases = text;
    }

    fn write_canonical(&mut self) {
        let (mut sender, mut recipient, mut both) = (String::new(), String::new(), String::new());
        for n in 0..30 {
            let person = self.plain_person();
            let _ = writeln!(sender, "was{n}@{MAIN} {}", mail(person));
            // As outsiders are to see them; nobody in the directory has that address.
            let person = self.plain_person();
            let _ = writeln!(sender, "{} display.{n}@{MAIN}", mail(person));
            let to = match self.chance.below(3) {
                0 => group(self.chance.below(GROUPS)),
                1 => format!("a{}@{MAIN}", self.chance.below(ALIASES)),
                _ => {
                    let person = self.person();
                    self.address_of(person)
                }
            };
            let _ = writeln!(recipient, "typo{n}@{MAIN} {to}");
            let person = self.plain_person();
            let _ = writeln!(both, "both{n}@{MAIN} {}", mail(person));
        }
        self.company.sender_canonical = sender;
        self.company.recipient_canonical = recipient;
        self.company.canonical = both;
    }

    fn recipient(&mut self) -> String {
        let plain = match self.chance.below(24) {
            0 | 1 => self.outsider(),
            2 => contact(self.chance.below(CONTACTS)),
            3..6 => group(self.chance.below(GROUPS)),
            6 => format!("team-{}@{MAIN}", self.chance.below(GROUPS)),
            7 => group(GROUPS + self.chance.below(8)),
            8..11 => format!("a{}@{MAIN}", self.chance.below(ALIASES)),
            11 => format!("a{}@old.test", self.chance.below(ALIASES)),
            12 => format!("loc{}@{LOCAL}", self.chance.below(40)),
            13 => format!("typo{}@{MAIN}", self.chance.below(30)),
            14 => format!("both{}@{MAIN}", self.chance.below(30)),
            15 => {
                let people: Vec<usize> = self
                    .redirected
                    .iter()
                    .chain(self.forwarding.keys())
                    .copied()
                    .collect();
                mail(people[self.chance.below(people.len())])
            }
            _ => {
                let person = self.person();
                self.address_of(person)
            }
        };
        let (local, domain) = plain.split_once('@').expect("an address");
        // The judge knows a group that is exempt by its own address only.
        let is_exempt = (local.strip_prefix(['g', 'G']))
            .and_then(|number| number.parse::<usize>().ok())
            .is_some_and(|number| number >= GROUPS);
        let is_canonical = local.starts_with("typo") || local.starts_with("both");
        let written = match self.chance.below(16) {
            0 => format!("{local}+list@{domain}"),
            1 if domain == MAIN && !is_canonical => format!("{local}@sister.test"),
            2 if domain == MAIN && !is_exempt => format!("{local}@old.test"),
            3 if domain == MAIN => local.to_owned(),
            4 if domain == MAIN && local.starts_with('p') => format!("{local}@{LOCAL}"),
            5 if domain == MAIN && local.starts_with('p') => {
                format!("{}@{LOCAL}", local.replacen('p', "login", 1))
            }
            6 => format!("prvs=0123456789={}", mail(self.plain_person())),
            7 if domain == MAIN => format!("nobody-{local}@{domain}"),
            _ => plain,
        };
        self.in_another_case(written)
    }

    /// An address by which a person sends.
    fn sender(&mut self) -> String {
        let written = match self.chance.below(12) {
            0 => format!("was{}@{MAIN}", self.chance.below(30)),
            1 => format!("both{}@{MAIN}", self.chance.below(30)),
            2 | 3 => self.own_aliases[self.chance.below(self.own_aliases.len())].clone(),
            4 => self.lists[self.chance.below(self.lists.len())].clone(),
            5 => {
                let person = self.person();
                format!("p{person}+x@{MAIN}")
            }
            6 => {
                let person = self.person();
                format!("{}@{LOCAL}", login(person))
            }
            7 => format!("noreply@{MAIN}"),
            _ => {
                let person = self.person();
                self.address_of(person)
            }
        };
        self.in_another_case(written)
    }

    fn write_mail(&mut self, messages: usize) {
        // Mail to the aliases that are senders as well shows whose they are.
        let names = self.own_aliases.iter().chain(&self.lists).cloned();
        let names: Vec<String> = names.collect();
        for name in names {
            let author = self.outsider();
            self.company.mail.push(Mail {
                from: From::Outside,
                sender: author.clone(),
                author,
                recipients: vec![name],
            });
        }
        for n in 0..messages {
            let (person, other) = (self.person(), self.person());
            let outsider = self.outsider();
            let mut author = mail(other);
            let (from, sender) = match self.chance.below(20) {
                0..5 => (From::Outside, outsider.clone()),
                5 => (From::Outside, String::new()),
                6 => (From::Outside, mail(person)),
                7 => (From::Outside, contact(1 + self.chance.below(5))),
                8..13 => (From::Inside, self.sender()),
                13 => (From::Inside, String::new()),
                14 => (From::Inside, outsider.clone()),
                kind => {
                    let name = match self.chance.below(8) {
                        0 => mail(person),
                        1 => format!("EXAMPLE\\{}", login(person)),
                        2 => login(person).to_uppercase(),
                        3 => format!("stranger{person}"),
                        _ => login(person),
                    };
                    let sender = match kind {
                        15 => self.sender(),
                        16 => String::new(),
                        17 => mail(person),
                        _ => outsider.clone(),
                    };
                    (From::Login(name), sender)
                }
            };
            if self.flip(2) {
                author = outsider;
            }
            let count = 1 + self.chance.below(5);
            let mut recipients: Vec<String> = Vec::new();
            while recipients.len() < count {
                let one = self.recipient();
                if !recipients
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(&one))
                {
                    recipients.push(one);
                }
            }
            // Thousands of deliveries each.
            if n % (messages / 3).max(1) == 1 {
                recipients.push(format!("everybody@{MAIN}"));
            }
            self.company.mail.push(Mail {
                from,
                sender,
                author,
                recipients,
            });
        }
    }
}
