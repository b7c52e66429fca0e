//! The messages of the demo, and the expected result of each.

/// A message of the demo.
pub(super) struct Scene {
    /// A one-line description.
    pub(super) title: &'static str,
    pub(super) queue_id: &'static str,
    pub(super) client_name: &'static str,
    pub(super) client_ip: &'static str,
    /// The user that the client authenticated as.
    pub(super) login: Option<&'static str>,
    pub(super) sender: &'static str,
    pub(super) recipients: &'static [&'static str],
    /// The header fields specific to this message.
    pub(super) header: &'static str,
    pub(super) text: &'static str,
    /// Recipients that must be rejected.
    pub(super) rejected: &'static [&'static str],
    /// Expected deliveries to the relay: envelope sender and recipients, in any order.
    pub(super) deliveries: &'static [(&'static str, &'static [&'static str])],
    /// The explanation printed for the reader.
    pub(super) because: &'static str,
}

impl Scene {
    /// Returns the message with CRLF line ends.
    pub(super) fn content(&self) -> String {
        let id = self.queue_id;
        let lines = format!(
            "{}\nMessage-ID: <{id}@{}>\n\n{}\n",
            self.header, self.client_name, self.text
        );
        lines.replace('\n', "\r\n")
    }
}

/// The mailbox that rejects mail in the demo.
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
        rejected: &[],
        deliveries: &[(
            "injournalndr@corp.example",
            &["branch-journal@corp.example"],
        )],
        because: "inbound: extensionAttribute10 of Dan's object contains his branch's journal address",
    },
    Scene {
        title: "Ana replies from her hotel, authenticated as herself",
        queue_id: "4DEMO00002",
        client_name: "hotel.example",
        client_ip: "198.51.100.20",
        login: Some("ana"),
        sender: "sales@corp.example",
        recipients: &["buyer@customer.example", "boss@customer.example"],
        header: "From: Sales <sales@corp.example>\nTo: buyer@customer.example\nSubject: =?utf-8?Q?Offer_4711=3A_100_St=C3=BCck?=",
        text: "Dear buyer,\n\nhere is our offer.\n.\nAna\n",
        rejected: &[],
        deliveries: &[(
            "outjournalndr@corp.example",
            &["outarchive@archive.example", "compliance@archive.example"],
        )],
        because: "outbound, because she authenticated: outbound.journal is the archive of all outbound mail, \
                  and Ana's attribute adds her own; one report for both",
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
        rejected: &[],
        deliveries: &[(
            "outjournalndr@corp.example",
            &[
                "outarchive@archive.example",
                "compliance@archive.example",
                "branch-journal@corp.example",
            ],
        )],
        because: "internal and outbound at once; the branch's journal applies to both directions and gets one report with \
                  both reasons",
    },
    Scene {
        title: "A customer writes to Eve, whose journal mailbox is full",
        queue_id: "4DEMO00004",
        client_name: "mail.customer.example",
        client_ip: "192.0.2.7",
        login: None,
        sender: "buyer@customer.example",
        recipients: &["eve@corp.example"],
        header: "From: buyer@customer.example\nTo: eve@corp.example\nSubject: Complaint",
        text: "It broke.\n",
        rejected: &[],
        // The report itself is rejected; the relay accepts the NDR, with the null reverse path.
        deliveries: &[("", &["injournalndr@corp.example"])],
        because: "the relay rejects the report permanently, so an NDR that contains the whole report goes to \
                  inbound.journal_ndr; the external sender is not notified",
    },
    Scene {
        title: "An external sender tries to write to the journal",
        queue_id: "4DEMO00005",
        client_name: "bad.example",
        client_ip: "203.0.113.66",
        login: None,
        sender: "mallory@bad.example",
        recipients: &["branch-journal@corp.example"],
        header: "From: mallory@bad.example\nX-MS-Journal-Report:\nSubject: never happened",
        text: "Trust me.\n",
        rejected: &["branch-journal@corp.example"],
        deliveries: &[],
        because: "the journal guard: branch-journal@corp.example is a journal address in Dan's object, and the sender is external",
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
        rejected: &[],
        deliveries: &[],
        because: "Bob's object has no journal address, and inbound.journal is not set",
    },
];
