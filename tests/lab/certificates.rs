//! A certificate authority for one test, and a server certificate of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{need, run, write};

/// A problem of a server's certificate.
#[derive(Debug, Clone, Copy)]
pub enum CertificateProblem {
    /// For another server's name.
    OtherName,
    /// Expired.
    Expired,
    /// Not yet valid.
    NotYetValid,
    /// Self-signed.
    SelfSigned,
    /// Signed by an untrusted authority.
    OtherAuthority,
}

impl CertificateProblem {
    /// All of them.
    pub const ALL: [CertificateProblem; 5] = [
        CertificateProblem::OtherName,
        CertificateProblem::Expired,
        CertificateProblem::NotYetValid,
        CertificateProblem::SelfSigned,
        CertificateProblem::OtherAuthority,
    ];

    /// Returns the words that an error about it must contain.
    pub fn words(self) -> &'static str {
        match self {
            CertificateProblem::OtherName => "not valid for name",
            CertificateProblem::Expired => "not valid after 2021-01-01T00:00:00Z",
            CertificateProblem::NotYetValid => "not valid before 2090-01-01T00:00:00Z",
            CertificateProblem::SelfSigned => "self-signed",
            CertificateProblem::OtherAuthority => "not issued by a trusted authority",
        }
    }
}

/// A certificate authority and a server certificate, as PEM files.
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes them in a directory that exists.
    pub fn make(directory: &Path) -> Certificates {
        Certificates::make_for(directory, "DNS:localhost,IP:127.0.0.1")
    }

    /// The same for other names, written as OpenSSL's `subjectAltName` has them.
    pub fn make_for(directory: &Path, names: &str) -> Certificates {
        let made = Certificates {
            directory: directory.to_owned(),
        };
        let authority_key = directory.join("ca.key");
        let place = directory.display().to_string().replace('/', " ");
        let request = directory.join("leaf.request");
        let extensions = directory.join("leaf.extensions");
        // The leaf is X.509 v3 with a SAN: rustls refuses anything older.
        write(
            &extensions,
            format!(
                "basicConstraints=critical,CA:FALSE\n\
                 keyUsage=critical,digitalSignature\n\
                 extendedKeyUsage=serverAuth,clientAuth\n\
                 subjectAltName={names}\n"
            ),
        );
        run(openssl("req -x509 -days 2 -nodes -newkey ec")
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            // Another name for each: who has the name and not the key is another fault.
            .args(["-subj", &format!("/CN=Authority of {place}")])
            .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
            .args([Path::new("-keyout"), &authority_key])
            .args([Path::new("-out"), &made.ca()]));
        run(openssl("req -nodes -newkey ec")
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", "/CN=localhost"])
            .args([Path::new("-keyout"), &made.key()])
            .args([Path::new("-out"), &request]));
        run(openssl("x509 -req -days 2 -CAcreateserial")
            .args([Path::new("-in"), &request])
            .args([Path::new("-extfile"), &extensions])
            .args([Path::new("-CA"), &made.ca()])
            .args([Path::new("-CAkey"), &authority_key])
            .args([Path::new("-out"), &made.certificate()]));
        made
    }

    /// Installs an expired certificate for the same names.
    pub fn expire(&self) {
        self.spoil(CertificateProblem::Expired);
    }

    /// Installs a certificate with this problem.
    pub fn spoil(&self, flaw: CertificateProblem) {
        match flaw {
            CertificateProblem::Expired => self.issue("20200101000000Z", "20210101000000Z"),
            CertificateProblem::NotYetValid => self.issue("20900101000000Z", "20910101000000Z"),
            CertificateProblem::OtherName => {
                let extensions = self.directory.join("leaf.extensions");
                let text = std::fs::read_to_string(&extensions).expect("it was written");
                let names = "subjectAltName=";
                let before = text.split(names).next().expect("there is a beginning");
                write(&extensions, format!("{before}{names}DNS:other.test\n"));
                self.issue("20200101000000Z", "20900101000000Z");
            }
            CertificateProblem::SelfSigned => {
                run(openssl("req -x509 -days 2 -subj /CN=localhost")
                    .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
                    .args([Path::new("-key"), &self.key()])
                    .args([Path::new("-out"), &self.certificate()]));
            }
            CertificateProblem::OtherAuthority => {
                let other = self.directory.join("other");
                std::fs::create_dir_all(&other).expect("the directory is there");
                let other = Certificates::make(&other);
                for (from, to) in [
                    (other.certificate(), self.certificate()),
                    (other.key(), self.key()),
                ] {
                    std::fs::copy(from, to).expect("both are there");
                }
            }
        }
    }

    /// Installs a certificate that is valid until the beginning of 2090.
    pub fn prolong(&self) {
        self.issue("20200101000000Z", "20900101000000Z");
    }

    /// A certificate of the authority, valid between these times.
    fn issue(&self, start: &str, end: &str) {
        let file = |name: &str| self.directory.join(name);
        write(&file("index.txt"), "");
        write(&file("serial"), "1000\n");
        let here = self.directory.display();
        write(
            &file("authority.conf"),
            format!(
                "[ca]\ndefault_ca=a\n[a]\ndatabase={here}/index.txt\nserial={here}/serial\nnew_certs_dir={here}\n\
                 default_md=sha256\npolicy=p\nrand_serial=yes\n[p]\ncommonName=supplied\n"
            ),
        );
        run(openssl("ca -batch")
            .args(["-startdate", start, "-enddate", end])
            .args([Path::new("-config"), &file("authority.conf")])
            .args([Path::new("-cert"), &self.ca()])
            .args([Path::new("-keyfile"), &file("ca.key")])
            .args([Path::new("-in"), &file("leaf.request")])
            .args([Path::new("-extfile"), &file("leaf.extensions")])
            .args([Path::new("-out"), &self.certificate()]));
    }

    /// The authority's certificate, which clients must trust.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The server's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("leaf.pem")
    }

    /// The server's key (PKCS#8).
    pub fn key(&self) -> PathBuf {
        self.directory.join("leaf.key")
    }
}

fn openssl(words: &str) -> Command {
    let mut command = Command::new(need("openssl", "openssl"));
    command.args(words.split(' '));
    command
}
