#!/bin/bash
# Makes the certificates, keys and revocation lists of the TLS tests in the directory given, with openssl alone.
#
# A name says what is special about a file: server-*.crt and .key are for servers, client-*.crt and .key for their clients,
# *.crl are revocation lists. What a server sends is all of its .crt file.
set -euo pipefail
cd "$1"

subject() { echo "/O=walring tests/CN=$1"; }

# key NAME [ALGORITHM [PARAMETER]]: a private key in PKCS#8, as openssl makes it; on P-256 unless told otherwise.
key() {
    local kind=("${@:2}")
    [ $# -gt 1 ] || kind=(EC ec_paramgen_curve:P-256)
    openssl genpkey -quiet -algorithm "${kind[0]}" ${kind[1]:+-pkeyopt "${kind[1]}"} -out "$1.key"
}

# authority NAME [ALGORITHM PARAMETER]: a root certificate that signs, and a place where it notes what it has signed.
authority() {
    key "$1" "${@:2}"
    openssl req -x509 -new -key "$1.key" -days 3650 -subj "$(subject "$1")" -config <(printf '%s\n' \
        '[req]' 'distinguished_name = name' 'x509_extensions = root' '[name]' '[root]' \
        'basicConstraints = critical, CA:TRUE' 'keyUsage = critical, keyCertSign, cRLSign' \
        'subjectKeyIdentifier = hash') -out "$1.crt"
    ledger "$1"
}

ledger() {
    : >"$1.index"
    echo "${2:-01}" >"$1.serial"
    printf '%s\n' '[ca]' 'default_ca = authority' '[authority]' "database = $1.index" "serial = $1.serial" \
        "certificate = $1.crt" "private_key = $1.key" 'new_certs_dir = .' 'default_md = sha256' 'policy = any' \
        'unique_subject = no' 'default_days = 3650' 'default_crl_days = 3650' '[any]' \
        'organizationName = optional' 'organizationalUnitName = optional' 'commonName = optional' \
        '[list]' 'authorityKeyIdentifier = keyid:always' >"$1.conf"
}

# sign NAME SUBJECT AUTHORITY EXTENSIONS [OPTIONS]: a certificate for the key of that name.
sign() {
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl ca -batch -notext -config "$3.conf" -in "$1.csr" -out "$1.crt" -extfile <(printf '%b' "$4") "${@:5}" \
        2>"$1.signing" || { cat "$1.signing" >&2; exit 1; }
}

# server NAME COMMON_NAME [SUBJECT_ALTERNATIVE_NAMES [AUTHORITY [OPTIONS]]]: a server's certificate, with a key of its own
# unless there is one.
server() {
    [ -e "$1.key" ] || key "$1"
    local names=${2:+$(subject "$2")}
    sign "$1" "${names:-/O=walring tests}" "${4:-root}" \
        "basicConstraints = CA:FALSE\n${3:+subjectAltName = $3\n}" "${@:5}"
}

# client NAME ROLE [AUTHORITY [OPTIONS]]
client() {
    [ -e "$1.key" ] || key "$1"
    sign "$1" "$(subject "$2")" "${3:-root}" "basicConstraints = CA:FALSE\n" "${@:4}"
}

revoke() { openssl ca -config "$2.conf" -revoke "$1.crt" 2>/dev/null; }

# list AUTHORITY FILE [OPTIONS]: what it has revoked so far; with extensions, which is version 2.
list() { openssl ca -config "$1.conf" -gencrl -crlexts list "${@:3}" -out "$2" 2>/dev/null; }

# ---- authorities ----
authority root RSA rsa_keygen_bits:2048
authority other-root
key intermediate
sign intermediate "$(subject intermediate)" root \
    'basicConstraints = critical, CA:TRUE\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid'
ledger intermediate 1001
# One that may sign for names below constrained.test only.
key constrained
sign constrained "$(subject constrained)" root \
    'basicConstraints = critical, CA:TRUE\nnameConstraints = critical, permitted;DNS:constrained.test\n'
ledger constrained 2001
# The same name as the root's, another key.
key impostor
openssl req -x509 -new -key impostor.key -days 3650 -subj "$(subject root)" -out impostor.crt
ledger impostor 3001
cat other-root.crt root.crt >both-roots.crt
cat root.crt intermediate.crt >root-and-intermediate.crt
# As if the root had signed it: a name leads there, the key does not.
cat root.crt impostor.crt >root-and-impostor.crt
{ echo "This is my root certificate:"; cat root.crt; echo "That was it."; } >root-with-words.crt
cat root.crt root.crt >root-twice.crt
head -c 300 root.crt >torn.crt
echo "not a certificate" >nonsense.crt
: >empty.crt

# ---- servers: the names ----
# As PostgreSQL's documentation makes it: without extensions, which is version 1.
key server-documented RSA rsa_keygen_bits:2048
openssl req -new -key server-documented.key -subj "/CN=db.example.test" -out server-documented.csr
openssl x509 -req -in server-documented.csr -days 3650 -CA root.crt -CAkey root.key -set_serial 7001 \
    -out server-documented.crt 2>/dev/null
server server-common-name db.example.test
server server-name other.test DNS:db.example.test
server server-names other.test DNS:one.test,DNS:db.example.test,DNS:three.test
server server-wildcard other.test 'DNS:*.example.test'
server server-wildcard-common-name '*.example.test'
server server-star other.test 'DNS:*'
server server-partial-wildcard other.test 'DNS:d*.example.test'
server server-inner-wildcard other.test 'DNS:db.*.test'
server server-address other.test IP:127.0.0.1
server server-addresses other.test IP:10.0.0.1,IP:::1,IP:127.0.0.1
server server-other-address other.test IP:10.0.0.1
server server-address-as-name other.test DNS:127.0.0.1
server server-address-as-common-name 127.0.0.1
server server-address-beside-name 127.0.0.1 DNS:db.example.test
server server-name-beside-address db.example.test IP:127.0.0.1
server server-localhost localhost DNS:localhost
server server-mail db.example.test email:dba@example.test
server server-without-name ''
server server-other-name elsewhere.test
server server-zero-in-name other.test "DER:30:13:82:11:$(printf 'db.example.test\0x' | od -An -tx1 | tr -d '\n' | sed 's/^ //; s/ /:/g')"
server server-address-of-three-bytes other.test DER:30:05:87:03:7f:00:01

# ---- servers: the keys and signatures ----
key server-rsa RSA rsa_keygen_bits:2048
key server-ed25519 ED25519
key server-p384 EC ec_paramgen_curve:P-384
key server-p521 EC ec_paramgen_curve:P-521
key server-weak RSA rsa_keygen_bits:1024
for name in rsa ed25519 p384 p521 weak; do server server-$name localhost DNS:localhost; done
server server-sha384 localhost DNS:localhost root -md sha384
server server-sha512 localhost DNS:localhost root -md sha512
server server-sha224 localhost DNS:localhost root -md sha224
server server-sha1 localhost DNS:localhost root -md sha1
server server-pss localhost DNS:localhost root -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest

# A number that is longer than 20 bytes.
key server-long-number
openssl req -new -key server-long-number.key -subj "$(subject localhost)" -out server-long-number.csr
openssl x509 -req -in server-long-number.csr -days 3650 -CA root.crt -CAkey root.key \
    -set_serial "0x$(printf '7f%.0s' {1..30})" -out server-long-number.crt 2>/dev/null

# ---- servers: the times, the purpose, the chain ----
server server-expired localhost DNS:localhost root -startdate 20200101000000Z -enddate 20210101000000Z
server server-early localhost DNS:localhost root -startdate 20900101000000Z -enddate 20910101000000Z
server server-revoked localhost DNS:localhost
server server-for-clients localhost $'DNS:localhost\nextendedKeyUsage = clientAuth'
server server-for-servers localhost $'DNS:localhost\nextendedKeyUsage = serverAuth\nkeyUsage = digitalSignature'
server server-critical localhost $'DNS:localhost\n1.2.3.4.5 = critical, ASN1:UTF8String:unknown'
server server-without-chain localhost DNS:localhost intermediate
cp server-without-chain.key server-chain.key
cat server-without-chain.crt intermediate.crt >server-chain.crt
cp server-chain.key server-chain-with-root.key
cat server-chain.crt root.crt >server-chain-with-root.crt
cp server-localhost.key server-long-chain.key
cat server-localhost.crt other-root.crt intermediate.crt >server-long-chain.crt
server server-chain-revoked localhost DNS:localhost intermediate
cat intermediate.crt >>server-chain-revoked.crt
server server-constrained db.example.test DNS:db.constrained.test constrained
cat constrained.crt >>server-constrained.crt
server server-unconstrained localhost DNS:localhost constrained
cat constrained.crt >>server-unconstrained.crt
server server-impostor localhost DNS:localhost impostor
server server-of-other-root localhost DNS:localhost other-root
# Signed by one that is no authority.
ledger server-localhost 4001
server server-of-server localhost DNS:localhost server-localhost
cat server-localhost.crt >>server-of-server.crt
key server-self-signed
openssl req -x509 -new -key server-self-signed.key -days 3650 -subj "$(subject localhost)" \
    -addext subjectAltName=DNS:localhost -out server-self-signed.crt
# Its signature names no hash.
key server-self-ed25519 ED25519
openssl req -x509 -new -key server-self-ed25519.key -days 3650 -subj "$(subject localhost)" \
    -addext subjectAltName=DNS:localhost -out server-self-ed25519.crt
# As Debian's own makes it.
key server-snakeoil RSA rsa_keygen_bits:2048
openssl req -x509 -new -key server-snakeoil.key -days 3650 -subj /CN=localhost \
    -config <(printf '%s\n' '[req]' 'distinguished_name = name' 'x509_extensions = leaf' '[name]' '[leaf]' \
        'basicConstraints = CA:FALSE' 'subjectAltName = DNS:localhost') -out server-snakeoil.crt

# ---- roots and others that say what they are for ----
# peculiar NAME EXTENSIONS [OPTIONS]: a root that says this of itself, and server-of-NAME, which it has signed.
peculiar() {
    [ -e "$1.key" ] || key "$1"
    ledger "$1" "$((serial += 100))"
    sign "$1" "$(subject "$1")" "$1" "$2" -selfsign "${@:3}"
    server "server-of-$1" localhost DNS:localhost "$1"
}
serial=5000
authority='basicConstraints = critical, CA:TRUE'
peculiar root-no-authority 'basicConstraints = critical, CA:FALSE'
peculiar root-silent 'subjectKeyIdentifier = hash'
peculiar root-by-usage 'keyUsage = critical, keyCertSign'
peculiar root-other-usage "$authority\nkeyUsage = critical, digitalSignature"
peculiar root-for-clients "$authority\nextendedKeyUsage = clientAuth"
peculiar root-for-servers "$authority\nextendedKeyUsage = serverAuth"
peculiar root-early "$authority" -startdate 20900101000000Z -enddate 20910101000000Z
peculiar root-renewed "$authority"
cp root-renewed.crt renewed.crt
sign root-renewed "$(subject root-renewed)" root-renewed "$authority" -selfsign -startdate 20200101000000Z \
    -enddate 20210101000000Z
mv root-renewed.crt root-expired.crt
mv renewed.crt root-renewed.crt
cat root-expired.crt root-renewed.crt >root-expired-and-renewed.crt
cat root-renewed.crt root-expired.crt >root-renewed-and-expired.crt
peculiar root-short 'basicConstraints = critical, CA:TRUE, pathlen:0'
peculiar root-constrained "$authority\nnameConstraints = critical, permitted;DNS:constrained.test"
server server-constrained-common-name db.example.test '' root-constrained
server server-constrained-authority localhost $'DNS:localhost\nbasicConstraints = CA:TRUE' root-constrained
server server-constrained-by-root localhost DNS:db.constrained.test root-constrained
server server-unconstrained-common-name db.example.test '' constrained
cat constrained.crt >>server-unconstrained-common-name.crt
# Without extensions, which is version 1.
key root-first-version
openssl req -new -key root-first-version.key -subj "$(subject root-first-version)" -out root-first-version.csr
openssl x509 -req -in root-first-version.csr -days 3650 -signkey root-first-version.key -out root-first-version.crt 2>/dev/null
ledger root-first-version 5901
server server-of-root-first-version localhost DNS:localhost root-first-version
# The name of a root, whose new key the old one has signed.
key root-rolled
sign root-rolled "$(subject other-root)" other-root "$authority"
ledger root-rolled 6001
server server-of-root-rolled localhost DNS:localhost root-rolled
cat server-of-root-rolled.crt root-rolled.crt >server-rolled-chain.crt
cp server-of-root-rolled.key server-rolled-chain.key
# below NAME ROOT EXTENSIONS: a server's certificate with one between it and the root.
below() {
    key "between-$1"
    sign "between-$1" "$(subject "between-$1")" "$2" "$3"
    ledger "between-$1" "$((serial += 100))"
    server "server-$1" localhost DNS:localhost "between-$1"
    cat "between-$1.crt" >>"server-$1.crt"
}
below below-short root-short "$authority"
below below-other-usage root "$authority\nkeyUsage = critical, digitalSignature"
below below-signer root "$authority\nkeyUsage = critical, keyCertSign"
# Of version 1 between the two: no authority.
key between-first-version
openssl req -new -key between-first-version.key -subj "$(subject between-first-version)" -out between-first-version.csr
openssl x509 -req -in between-first-version.csr -days 3650 -CA root.crt -CAkey root.key -set_serial 7002 \
    -out between-first-version.crt 2>/dev/null
ledger between-first-version 6101
server server-below-first-version localhost DNS:localhost between-first-version
cat between-first-version.crt >>server-below-first-version.crt
for usage in digitalSignature keyEncipherment keyAgreement keyCertSign nonRepudiation; do
    server server-usage-$usage localhost $'DNS:localhost\nkeyUsage = critical, '$usage
done
server server-usage-authority localhost $'DNS:localhost\nbasicConstraints = CA:TRUE\nkeyUsage = keyCertSign'
server server-old-client localhost $'DNS:localhost\nnsCertType = client'
server server-old-server localhost $'DNS:localhost\nnsCertType = server'
# Names that cannot be read; the common name could.
server server-names-torn localhost DER:30:0b:a3:02:30:00:82:05:6f:74:68:65:72
server server-names-not-ascii localhost DER:30:10:82:07:c3:a9:2e:65:78:61:6d:82:05:6f:74:68:65:72

# ---- clients ----
key client-rsa RSA rsa_keygen_bits:2048
key client-ed25519 ED25519
key client-p384 EC ec_paramgen_curve:P-384
key client-p521 EC ec_paramgen_curve:P-521
key client-weak RSA rsa_keygen_bits:1024
for name in good rsa ed25519 p384 p521 weak revoked; do client client-$name certified; done
client client-nobody nobody
client client-expired certified root -startdate 20200101000000Z -enddate 20210101000000Z
client client-of-other-root certified other-root
client client-chain certified intermediate
cp client-chain.key client-without-chain.key
cp client-chain.crt client-without-chain.crt
cat intermediate.crt >>client-chain.crt
cp client-without-chain.key client-wrong-chain.key
cat client-without-chain.crt other-root.crt >client-wrong-chain.crt
openssl x509 -in client-good.crt -outform DER -out client-der.crt

# The same key in every form there is; the password is "secret", unless the name says otherwise.
pkcs8() { openssl pkcs8 -topk8 -in "$1.key" -out "$2.key" "${@:3}"; }
for kind in good rsa; do
    from=client-$kind
    pkcs8 $from $from-aes -v2 aes-256-cbc -passout pass:secret
    pkcs8 $from $from-aes-sha1 -v2 aes-128-cbc -v2prf hmacWithSHA1 -passout pass:secret
    pkcs8 $from $from-3des -v2 des3 -passout pass:secret
    pkcs8 $from $from-scrypt -scrypt -passout pass:secret
    pkcs8 $from $from-der -nocrypt -outform DER
    pkcs8 $from $from-der-encrypted -outform DER -v2 aes-256-cbc -passout pass:secret
    for cipher in aes128 aes256 des3; do
        openssl pkey -in $from.key -traditional -$cipher -passout pass:secret -out $from-old-$cipher.key
    done
    openssl pkey -in $from.key -traditional -out $from-old.key
done
for kind in p521 weak; do openssl pkey -in client-$kind.key -traditional -out client-$kind-old.key; done
openssl ec -in client-good.key -outform DER -out client-good-old-der.key 2>/dev/null
openssl rsa -in client-rsa.key -traditional -outform DER -out client-rsa-old-der.key 2>/dev/null
pkcs8 client-good client-good-umlaut -v2 aes-256-cbc -passout 'pass:gehört'
{ echo "My key:"; openssl ecparam -name prime256v1; openssl pkey -in client-good.key -traditional; } >client-good-words.key
cat client-good.crt client-good.key >client-good-both.key
head -c 100 client-good.key >client-torn.key
echo "not a key" >client-nonsense.key
: >client-empty.key

# ---- revocation lists ----
list root empty.crl
list root expired.crl -crl_lastupdate 20200101000000Z -crl_nextupdate 20210101000000Z
list root early.crl -crl_lastupdate 20900101000000Z -crl_nextupdate 20910101000000Z
list other-root other.crl
list intermediate intermediate-empty.crl
cat empty.crl intermediate-empty.crl >chain-empty.crl
revoke server-revoked root
revoke client-revoked root
revoke server-chain-revoked intermediate
list root root.crl
# As openssl makes it unless told otherwise.
openssl ca -config root.conf -gencrl -out root-first-version.crl 2>/dev/null
list intermediate intermediate.crl
cat root.crl intermediate.crl >chain.crl
revoke intermediate root
list root intermediate-revoked.crl
cat intermediate-revoked.crl intermediate.crl >chain-intermediate-revoked.crl
head -c 200 root.crl >torn.crl
# listed NAME USAGE: a root, two servers, and lists of another time: server-NAME-revoked is in the newer one alone.
listed() {
    peculiar "$1" "$authority\nkeyUsage = critical, $2"
    server "server-$1-revoked" localhost DNS:localhost "$1"
    list "$1" "$1-old.crl" -crl_lastupdate 20260101000000Z -crl_nextupdate 20360101000000Z
    revoke "server-$1-revoked" "$1"
    list "$1" "$1-new.crl" -crl_lastupdate 20260201000000Z -crl_nextupdate 20360101000000Z
}
listed root-listed keyCertSign,cRLSign
cat root-listed-old.crl root-listed-new.crl >newest-last.crl
cat root-listed-new.crl root-listed-old.crl >newest-first.crl
cat root-listed.crt root-listed-new.crl >root-with-list.crt
listed root-no-lists keyCertSign
cat >>root-listed.conf <<'EXTENSIONS'
[part]
issuingDistributionPoint = @point
[critical_part]
issuingDistributionPoint = critical, @point
[point]
onlyCA = TRUE
[change]
2.5.29.27 = DER:02:01:01
EXTENSIONS
for kind in part critical_part change; do
    openssl ca -config root-listed.conf -gencrl -crlexts $kind -out root-listed-$kind.crl 2>/dev/null
done
cat root-listed-part.crl root-listed-old.crl >part-and-old.crl
# One that has withdrawn itself.
listed root-retired keyCertSign,cRLSign
revoke root-retired root-retired
list root-retired root-retired.crl -crl_lastupdate 20260301000000Z -crl_nextupdate 20360101000000Z
# A list that somebody else has signed.
sed 's/root.key/impostor.key/; s/root.crt/impostor.crt/' root.conf >forged.conf
list forged forged.crl
for name in root empty chain intermediate expired; do
    mkdir $name.crl.d
    csplit -s -z -f $name.crl.d/part- -b %d.pem $name.crl '/BEGIN X509 CRL/' '{*}'
    openssl rehash $name.crl.d
done
mkdir unhashed.crl.d
cp root.crl unhashed.crl.d
mkdir system.d
cp root.crt system.d/root.pem
openssl rehash system.d

rm -f ./*.csr ./*.signing ./*.conf ./*.index* ./*.serial* ./[0-9A-F]*.pem
chmod 644 ./*.crt ./*.crl
chmod 600 ./*.key
