/* Inputs for the functions in popserv/_speedups.c, with naive functions that say what is right.

   It includes that file, so that it is compiled with the same sanitizers, and also calls its inner
   functions, with a text after which nothing may be read.  native.py compiles and runs this. */

/* Each function then allocates just what it may need, and the sanitizers find a write beyond. */
#define ROOM 1
#include "_speedups.c"

#include <stdlib.h>

#define MAX_TEXT 96
#define STATUS "+OK\r\n"
#define STATUS_LENGTH 5

static uint64_t state;

/* Return a number below a limit (xorshift64*). */
static unsigned below(unsigned limit)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * UINT64_C(0x2545F4914F6CDD1D) >> 32) % limit;
}

/* Write a text in which line ends and dots are frequent; return its length. */
static Py_ssize_t make_text(char *text)
{
    static const char octets[] = "\r\n\n..\n a:z\0\xff";
    Py_ssize_t length = below(4) ? below(16) : below(MAX_TEXT);
    for (Py_ssize_t i = 0; i < length; i++)
        text[i] = octets[below(sizeof octets)];
    return length;
}

/* What a text is in wire form, octet by octet. */
struct naive {
    char wire[4 * MAX_TEXT + 16];
    Py_ssize_t length, octets;
    int has_blank_line;
};

/* Convert the header and some lines of the body, or all if "lines" is negative. */
static void convert(const char *text, Py_ssize_t length, long long lines, struct naive *naive)
{
    Py_ssize_t start = 0;
    int in_header = 1;
    memcpy(naive->wire, STATUS, naive->length = STATUS_LENGTH);
    naive->octets = naive->has_blank_line = 0;
    while (start < length && (lines < 0 || in_header || lines > 0)) {
        Py_ssize_t end = start;
        while (end < length && text[end] != '\n')
            end++;
        int has_lf = end < length;
        Py_ssize_t next = has_lf ? end + 1 : end;
        if (has_lf && end > start && text[end - 1] == '\r')
            end--;
        if (!in_header)
            lines -= lines > 0;
        if (has_lf && end == start)
            naive->has_blank_line = 1, in_header = 0;
        if (text[start] == '.' && end > start)
            naive->wire[naive->length++] = '.';
        while (start < end) {
            naive->wire[naive->length++] = text[start++];
            naive->octets++;
        }
        naive->wire[naive->length++] = '\r';
        naive->wire[naive->length++] = '\n';
        naive->octets += 2;
        start = next;
    }
    memcpy(naive->wire + naive->length, ".\r\n", 3);
    naive->length += 3;
}

/* Return whether an object, to which it takes the reference, is these octets. */
static int is_same(PyObject *object, const char *octets, Py_ssize_t length)
{
    int same = object && PyBytes_Check(object) && PyBytes_Size(object) == length &&
               memcmp(PyBytes_AsString(object), octets, length) == 0;
    Py_XDECREF(object);
    return same;
}

/* Call a function with arguments, to which it takes the reference. */
static PyObject *call(PyCFunction function, PyObject *arguments)
{
    PyObject *result = arguments ? function(NULL, arguments) : NULL;
    Py_XDECREF(arguments);
    return result;
}

/* Measure and frame a text after which nothing may be read. */
static int check_response(const char *text, Py_ssize_t length)
{
    struct naive naive;
    convert(text, length, -1, &naive);
    char *alone = malloc(length);
    memcpy(alone, text, length);
    struct wire wire = {.start = alone, .end = alone + length};
    measure(&wire);
    int same = wire.octets == naive.octets && wire.has_blank_line == naive.has_blank_line &&
               is_same(response(alone, wire.end, naive.octets, naive.octets, STATUS, STATUS_LENGTH),
                       naive.wire, naive.length);
    free(alone);
    return same;
}

static int check_count(const char *text, Py_ssize_t length)
{
    struct naive naive;
    convert(text, length, -1, &naive);
    PyObject *counted = call(count_message, Py_BuildValue("(y#)", text, length));
    int same = counted && PyLong_AsLongLong(PyTuple_GetItem(counted, 0)) == naive.octets &&
               PyObject_IsTrue(PyTuple_GetItem(counted, 1)) == naive.has_blank_line;
    Py_XDECREF(counted);
    return same;
}

static int check_whole(const char *text, Py_ssize_t length)
{
    struct naive naive;
    convert(text, length, -1, &naive);
    return is_same(call(frame_message, Py_BuildValue("(y#ny)", text, length, naive.octets, STATUS)),
                   naive.wire, naive.length);
}

static int check_top(const char *text, Py_ssize_t length)
{
    struct naive naive;
    long long lines = below(5);
    convert(text, length, -1, &naive);
    Py_ssize_t octets = naive.octets;
    convert(text, length, lines, &naive);
    return is_same(call(frame_top,
                        Py_BuildValue("(y#Lniy)", text, length, lines, octets, 1, STATUS)),
                   naive.wire, naive.length);
}

static int check_part(const char *text, Py_ssize_t length)
{
    char wire[4 * MAX_TEXT];
    Py_ssize_t used = 0, octets = length;
    int at_line_start = below(2), starts = at_line_start;
    for (Py_ssize_t i = 0; i < length; i++) {
        if (starts && text[i] == '.')
            wire[used++] = '.';
        starts = text[i] == '\n';
        if (starts)
            wire[used++] = '\r', octets++;
        wire[used++] = text[i];
    }
    PyObject *framed = call(frame_lines, Py_BuildValue("(y#i)", text, length, at_line_start));
    int same = framed && PyLong_AsLongLong(PyTuple_GetItem(framed, 1)) == octets &&
               is_same(Py_NewRef(PyTuple_GetItem(framed, 0)), wire, used);
    Py_XDECREF(framed);
    return same;
}

static int check_line(const char *text, Py_ssize_t length)
{
    PyObject *line = PyBytes_FromStringAndSize(text, length);
    PyObject *parts = line ? split_line(NULL, line) : NULL;
    char keyword[MAX_TEXT];
    Py_ssize_t end = length - (length > 0 && text[length - 1] == '\r'), used = 0;
    while (used < end && text[used] != ' ') {
        keyword[used] = text[used] >= 'a' && text[used] <= 'z' ? text[used] - 32 : text[used];
        used++;
    }
    int same = parts && is_same(Py_NewRef(PyTuple_GetItem(parts, 0)), keyword, used);
    PyObject *argument = same ? PyTuple_GetItem(parts, 1) : NULL;
    if (same && used == end)
        same = argument == Py_None;
    else if (same)
        same = is_same(Py_NewRef(argument), text + used + 1, end - used - 1);
    Py_XDECREF(line);
    Py_XDECREF(parts);
    return same;
}

/* For each function one that returns whether it does with a text what is right. */
static int (*const checks[])(const char *text, Py_ssize_t length) = {
    check_response, check_count, check_whole, check_top, check_part, check_line,
};

/* Give a number of texts, which follow from a seed, to one function each.

   Return None, or the first text with which one has failed, and its place among the checks. */
static PyObject *run(PyObject *self, PyObject *args)
{
    unsigned long long seed;
    Py_ssize_t inputs;
    if (!PyArg_ParseTuple(args, "Kn", &seed, &inputs))
        return NULL;
    state = seed * UINT64_C(0x9E3779B97F4A7C15) | 1;
    for (Py_ssize_t i = 0; i < inputs; i++) {
        char text[MAX_TEXT];
        Py_ssize_t length = make_text(text);
        int number = below(sizeof checks / sizeof *checks);
        if (!checks[number](text, length))
            return Py_BuildValue("iy#", number, text, length);
    }
    Py_RETURN_NONE;
}

static PyMethodDef native_methods[] = {{"run", run, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "native",
    .m_methods = native_methods,
};

PyMODINIT_FUNC PyInit_native(void)
{
    return PyModuleDef_Init(&native_module);
}
