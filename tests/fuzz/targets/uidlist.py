"""``dovecot-uidlist``."""

from popserv.maildrops.maildir.unique_ids.dovecot_uidlist import UidList, decode
from tests.fuzz.target import Target


def encode(uids):
    """Return a list of version 3 with the contents of one."""
    lines = [b"3 V%d N%d" % (uids.validity, uids.next_uid)]
    for name, record in sorted(uids.records.items(), key=lambda each: each[1].uid):
        fields = [b"%d" % record.uid]
        if record.unique_id is not None:
            fields.append(b"P" + record.unique_id)
        if record.order is not None:
            fields.append(b"O%d" % record.order)
        if record.guid is not None:
            fields.append(b"G" + record.guid)
        lines.append(b" ".join(fields) + b" :" + name + b":2,")
    return b"\n".join(lines) + b"\n"


def check(data):
    """A list is damaged, or has ascending UIDs and names of files; written again it is the same."""
    try:
        uids = decode(data)
    except ValueError as error:
        assert str(error).startswith("line "), error
        return
    numbers = [record.uid for record in uids.records.values()]
    assert len({*numbers}) == len(numbers)
    assert all(0 < number < uids.next_uid < 1 << 32 for number in numbers), uids
    assert all(name and b"/" not in name and b":" not in name for name in uids.records), uids
    # Of a line that is being written, nothing is used.
    whole = data[: data.rfind(b"\n") + 1]
    assert decode(whole) == uids
    assert decode(encode(uids)) == UidList(3, *uids[1:]), (uids, encode(uids))


TARGET = Target(
    "uidlist",
    check,
    (
        b"3 V1795928062 N4 Gb31b221dfeaf0b6bc92d000083ecc375\n1 W23 :1.a:2,S\n2 PXXX O9 :2.b\n",
        *(b"1 100 9\n1 1.a:2,S\n7 2.b c\n", b"3 V1 N1\n", b"3 N2 V3\n1 :a\n4 G0f :4.d\n5 :x"),
        *(b"3 V1 N4294967295\n4294967294 :a\n", b"3 V1 N4294967296\n4294967295 :a\n"),
    ),
    (b"3 V", b" N", b" :", b"4294967294", b":2,", b"\n1 :", b" P", b" O", b" G"),
)
