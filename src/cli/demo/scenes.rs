//! The messages of the demo, and what must come of each.

/// One message that the MTA is handed.
pub(super) struct Scene {
    /// One line that says what is played.
    pub(super) title: &'static str,
    pub(super) queue_id: &'static str,
    pub(super) client_name: &'static str,
    pub(super) client_ip: &'static str,
    /// The user that the client authenticated as.
    pub(super) login: Option<&'static str>,
    pub(super) sender: &'static str,
    pub(super) recipients: &'static [&'static str],
    /// The header fields that differ.
    pub(super) header: &'static str,
    pub(super) text: &'static str,
    /// Recipients that must be refused.
    pub(super) refused: &'static [&'static str],
    /// What the relay must get for it: envelope sender and recipients, in any order.
    pub(super) owed: &'static [(&'static str, &'static [&'static str])],
    /// Why that is right, for the reader.
    pub(super) because: &'static str,
}

impl Scene {
    /// The message, CRLF at every line's end.
    pub(super) fn content(&self) -> String {
        let id = self.queue_id;
        let lines = format!(
            "{}\nMessage-ID: <{id}@{}>\n\n{}\n",
            self.header, self.client_name, self.text
        );
        lines.replace('\n', "\r\n")
    }
}

/// The address whose mailbox refuses in the demo.
pub(super) const FULL: &str = "full@archive.example";

pub(super) const SCENES: &[Scene] = &[
    Scene {
        title: "A customer writes to Dan, whose branch keeps a journal",
        queue_id: "4DEMO00001",
        client_name: "mail.customer.example",
        client_ip: "192.0.2.7",
        login: None,
        sender: "buyer@customer.example",
        recipients: &["dan@corp.example"],
        header: "From: A Buyer <buyer@customer.example>\nTo: Dan <dan@corp.example>\nSubject: Request for an offer",
        text: "Dear Dan,\n\nwhat would a hundred of them cost?\n",
        refused: &[],
        owed: &[(
            "injournalndr@corp.example",
            &["branch-journal@corp.example"],
        )],
        because: "inbound: the attribute extensionAttribute10 of Dan's object names his branch's journal",
    },
    Scene {
        title: "Ana answers from her hotel, logged in as herself",
        queue_id: "4DEMO00002",
        client_name: "hotel.example",
        client_ip: "198.51.100.20",
        login: Some("ana"),
        sender: "sales@corp.example",
        recipients: &["buyer@customer.example", "boss@customer.example"],
        header: "From: Sales <sales@corp.example>\nTo: buyer@customer.example\nSubject: =?utf-8?Q?Offer_4711=3A_100_St=C3=BCck?=",
        text: "Dear buyer,\n\nhere is our offer.\n.\nAna\n",
        refused: &[],
        owed: &[(
            "outjournalndr@corp.example",
            &["outarchive@archive.example", "compliance@archive.example"],
        )],
        because: "outbound, since she authenticated: outbound.journal names the archive of all that goes out, \
                  Ana's attribute her own; one report for both",
    },
    Scene {
        title: "Dan writes to a colleague and to the customer in one message",
        queue_id: "4DEMO00003",
        client_name: "pc7.corp.example",
        client_ip: "10.0.0.7",
        login: None,
        sender: "dan@corp.example",
        recipients: &[
            "ana@corp.example",
            "bob@corp.example",
            "buyer@customer.example",
        ],
        header: "From: dan@corp.example\nTo: buyer@customer.example\nCc: ana@corp.example\nSubject: Order",
        text: "Thank you. Ana will send it.\n",
        refused: &[],
        owed: &[(
            "outjournalndr@corp.example",
            &[
                "outarchive@archive.example",
                "compliance@archive.example",
                "branch-journal@corp.example",
            ],
        )],
        because: "internal and outbound at once; the branch's journal is named for both directions and gets it once, with \
                  both reasons",
    },
    Scene {
        title: "Somebody writes to Eve, and her journal mailbox is full",
        queue_id: "4DEMO00004",
        client_name: "mail.customer.example",
        client_ip: "192.0.2.7",
        login: None,
        sender: "buyer@customer.example",
        recipients: &["eve@corp.example"],
        header: "From: buyer@customer.example\nTo: eve@corp.example\nSubject: Complaint",
        text: "It broke.\n",
        refused: &[],
        // The report itself is refused; what the relay takes is the NDR, with the null reverse
        // path.
        owed: &[("", &["injournalndr@corp.example"])],
        because: "the relay refuses the report for good, so an NDR with the whole report in it goes to \
                  inbound.journal_ndr; the sender outside hears nothing of it",
    },
    Scene {
        title: "Somebody outside tries to write into the journal",
        queue_id: "4DEMO00005",
        client_name: "bad.example",
        client_ip: "203.0.113.66",
        login: None,
        sender: "mallory@bad.example",
        recipients: &["branch-journal@corp.example"],
        header: "From: mallory@bad.example\nX-MS-Journal-Report:\nSubject: never happened",
        text: "Trust me.\n",
        refused: &["branch-journal@corp.example"],
        owed: &[],
        because: "the journal guard: branch-journal@corp.example is a journal address in Dan's object, and the sender is outside",
    },
    Scene {
        title: "A customer writes to Bob, who is not journaled",
        queue_id: "4DEMO00006",
        client_name: "mail.customer.example",
        client_ip: "192.0.2.7",
        login: None,
        sender: "buyer@customer.example",
        recipients: &["bob@corp.example"],
        header: "From: buyer@customer.example\nTo: bob@corp.example\nSubject: Lunch?",
        text: "At noon?\n",
        refused: &[],
        owed: &[],
        because: "Bob's object has no journal address, and inbound.journal names nobody",
    },
];
