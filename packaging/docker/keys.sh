#!/bin/bash
# Makes what must be secret, once, in volumes of its own: the certificates between etcd and the agents, and the password of the user "app".
# Nothing of it is in an image, in the environment or in this repository. The key of the authority is thrown away: who wants new certificates
# removes the volumes "etcd-keys" and "node-keys".
set -euo pipefail
etcd=/keys/etcd
node=/keys/node
if [ -e "$etcd/made" ] && [ -e "$node/made" ]; then exit; fi
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
key ca
openssl req -x509 -key ca.key -out ca.crt -days 3650 -subj "/CN=pgvigil compose"
# certificate NAME EXTENSIONS: signed by the authority.
certificate() {
    key "$1"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" -extfile <(echo "$2") 2>/dev/null
}
addresses=DNS:localhost,IP:127.0.0.1
for address in $ETCD_ADDRESSES; do addresses+=,IP:$address; done
# Members of etcd are each other's clients.
certificate etcd "subjectAltName=$addresses
extendedKeyUsage=serverAuth,clientAuth"
certificate pgvigil "extendedKeyUsage=clientAuth"
openssl rand -hex 16 >app_password

install -o 501 -g 501 -m 400 ca.crt etcd.crt etcd.key "$etcd"
install -o 500 -g 500 -m 400 ca.crt pgvigil.crt pgvigil.key app_password "$node"
chown 501:501 "$etcd"
chown 500:500 "$node"
touch "$etcd/made" "$node/made"
