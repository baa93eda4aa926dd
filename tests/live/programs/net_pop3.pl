# Fetch all mail with Net::POP3 and Authen::SASL, and print a trace.
use strict;
use warnings;
use Authen::SASL qw(Perl);
use Net::POP3;

my ($port, $transport, $mechanism, $user, $secret, $ca, $certificate, $directory) = @ARGV;

my %tls = (SSL_ca_file => $ca, SSL_verify_mode => 1);
$tls{SSL_cert_file} = $tls{SSL_key_file} = $certificate if $certificate;
my %implicit = $transport eq "tls" ? (SSL => 1, %tls) : ();
my $client = Net::POP3->new("localhost", Port => $port, Timeout => 60, Debug => 1, %implicit)
    or die "no connection: $@";
$client->starttls(%tls) or die "TLS handshake failed: $@" if $transport eq "stls";

my %sasl = (user => $user, pass => $secret);
my $success
    = $mechanism eq "USER"
    ? defined $client->login($user, $secret)
    : $mechanism eq ""
    ? $client->auth($user, $secret)
    : $client->auth(Authen::SASL->new(mechanism => $mechanism, callback => \%sasl));
$success or die "login failed";

for my $number (keys %{$client->list}) {
    open my $file, ">:raw", "$directory/$number" or die;
    print $file @{$client->get($number)};
    close $file or die;
}
$client->quit or die "no QUIT";
