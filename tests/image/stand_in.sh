#!/usr/bin/env bash
# Make an image that can take the place of python:slim, without a container registry: Debian from its
# packages, and the Python of a prefix. Usage: stand_in.sh NAME FOLDER PREFIX, as root.
#
#   NAME    name of the image
#   FOLDER  folder of the Debian system; it is made if it is not there
#   PREFIX  prefix of the Python, such as that of pyenv
set -euo pipefail
name=$1 folder=$2 prefix=$3

libraries=ca-certificates,libssl3,libffi8,libsqlite3-0,zlib1g,libbz2-1.0,liblzma5,libreadline8
if [ ! -e "$folder/usr/bin/env" ]; then
    debootstrap --variant=minbase --include="$libraries,libncursesw6,libuuid1,libexpat1" bookworm "$folder"
fi

container=$(buildah from scratch)
trap 'buildah rm "$container" > /dev/null' EXIT
root=$(buildah mount "$container")
cp --archive "$folder/." "$root"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/debootstrap
# Without packages but pip, tests and development files, as in python:slim.
tar --create --directory="$prefix" --exclude='site-packages/*' --exclude=lib/python3*/test \
    --exclude='__pycache__' --exclude='lib/python3*/config-*' --exclude='*.a' bin lib \
    | tar --extract --directory="$root/usr/local" --no-same-owner
for each in bin lib/python3*; do
    test -e "$root/usr/local/$each" || ls -d "$root"/usr/local/$each > /dev/null
done
ln -sf python3 "$root/usr/local/bin/python"
chroot "$root" ldconfig
chroot "$root" /usr/local/bin/python3 -m ensurepip > /dev/null
chroot "$root" /usr/local/bin/python3 -c 'import ssl, sqlite3, ctypes, lzma, bz2, zlib'
buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah umount "$container" > /dev/null
buildah commit --quiet "$container" "$name" > /dev/null
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' "$name"
