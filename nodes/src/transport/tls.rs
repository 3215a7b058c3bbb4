//! TLS 1.3 with raw public keys on both sides.

use super::keys::{from_spki, node_key, to_pkcs8, to_spki};
use crate::tracker::names::NodeKey;
use crate::tracker::sign::SigningKey;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::AlwaysResolvesServerRawPublicKeys;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};

/// Both sides must name it, so that nothing else that speaks TLS is taken for one of us.
const ALPN: &[u8] = b"twinkeep";

/// Ciphers of TLS 1.3, AES-128 first: it is the fastest where the processor has AES.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.version().version == rustls::ProtocolVersion::TLSv1_3);
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn certified(key: &SigningKey) -> Arc<CertifiedKey> {
    let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(to_pkcs8(key).to_vec()));
    let signing = provider().key_provider.load_private_key(pkcs8).expect("an Ed25519 key is known to the provider");
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(to_spki(&node_key(key)))], signing))
}

/// The listening side: any key is let in as far as it is shown to be held.
pub fn server(key: &SigningKey) -> Arc<ServerConfig> {
    let provider = provider();
    let verifier = Arc::new(AnyKey(provider.signature_verification_algorithms));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every connection shows its key anew: a revoked one must not come back with a ticket.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The calling side: the other one must hold one of these keys.
pub fn client(key: &SigningKey, expected: &[NodeKey]) -> Arc<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TheseKeys { keys: expected.to_vec(), algorithms }))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// The name asked for in a handshake; it plays no part.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("twinkeep").expect("a valid name")
}

/// What is said of a machine that is not the one expected.
const OTHER_KEY: &str = "the machine that answers is not the one expected: its key differs";

/// Whether a handshake failed because another machine answered than the one expected.
pub fn is_other_key(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::General(text)) if text == OTHER_KEY)
}

/// The key that the other side has shown; none before the handshake, or for a key of another kind.
pub fn peer_key(connection: &rustls::CommonState) -> Option<NodeKey> {
    from_spki(connection.peer_certificates()?.first()?)
}

fn has_signed(
    message: &[u8],
    spki: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
}

fn is_ed25519(spki: &CertificateDer<'_>) -> Result<NodeKey, Error> {
    from_spki(spki).ok_or_else(|| Error::General("the peer's key is no Ed25519 key".into()))
}

fn refuse_tls12<T>() -> Result<T, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

#[derive(Debug)]
struct AnyKey(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        is_ed25519(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        has_signed(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct TheseKeys {
    keys: Vec<NodeKey>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for TheseKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.keys.contains(&is_ed25519(end_entity)?) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General(OTHER_KEY.into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        has_signed(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
